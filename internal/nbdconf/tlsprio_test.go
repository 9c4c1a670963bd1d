package nbdconf

import (
	"crypto/tls"
	"testing"
)

func TestTLSVersionsOfPriorityStrings(t *testing.T) {
	for text, want := range map[string]TLSVersions{
		"NORMAL": {tls.VersionTLS12, tls.VersionTLS13},
		"NORMAL:-VERS-TLS-ALL:+VERS-TLS1.2:%SERVER_PRECEDENCE":                 {tls.VersionTLS12, tls.VersionTLS12}, // default of 3.24
		"NORMAL:+VERS-TLS-ALL:-VERS-TLS1.0:-VERS-TLS1.1:%SERVER_PRECEDENCE":    {tls.VersionTLS12, tls.VersionTLS13}, // of 3.27
		"NORMAL:-VERS-ALL:+VERS-TLS1.3":                                        {tls.VersionTLS13, tls.VersionTLS13},
		"NORMAL:!VERS-TLS1.2":                                                  {tls.VersionTLS13, tls.VersionTLS13},
		"NORMAL:-VERS-TLS1.3:%SERVER_PRECEDENCE":                               {tls.VersionTLS12, tls.VersionTLS12},
		"NORMAL:-VERS-ALL:+VERS-TLS1.0:+VERS-TLS1.1:+VERS-TLS1.2:+VERS-TLS1.3": {tls.VersionTLS12, tls.VersionTLS13},
		"SECURE256":                     {},
		"NORMAL:-AES-128-CBC":           {},
		"NORMAL:+VERS-SSL3.0":           {},
		"NORMAL:-VERS-TLS-ALL":          {},
		"NORMAL:":                       {},
		"NORMAL:?VERS-TLS1.2":           {},
		"NORMAL:%COMPAT":                {},
		"NORMAL:-VERS-ALL:+VERS-TLS1.1": {},
		"":                              {},
	} {
		var got TLSVersions
		err := got.UnmarshalText([]byte(text))
		if got != want || (err != nil) != (want == TLSVersions{}) {
			t.Errorf("%q: got %x, %v, want %x", text, got, err, want)
			continue
		}
		if err == nil {
			written, err := got.MarshalText()
			var again TLSVersions
			if err != nil || again.UnmarshalText(written) != nil || again != got {
				t.Errorf("%q: written as %q, %v", text, written, err)
			}
		}
	}
	if _, err := (TLSVersions{}).MarshalText(); err == nil {
		t.Error("no versions at all are written")
	}
}
