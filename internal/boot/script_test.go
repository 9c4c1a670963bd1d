package boot

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata anew")

func TestScripts(t *testing.T) {
	const commandLine = "dnbd=239.0.0.7:debian-12:cow=mem,cache-size=64M  ip=dhcp quiet"
	for _, c := range []struct{ name, got string }{
		{"boot.ipxe", IPXEScript(commandLine, true)},
		{"kernel-only.ipxe", IPXEScript("", false)},
		{"grub.cfg", GRUBConfig(commandLine, true)},
		{"kernel-only.cfg", GRUBConfig("", false)},
	} {
		golden := filepath.Join("testdata", c.name)
		if *update {
			if err := os.WriteFile(golden, []byte(c.got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if c.got != string(want) {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, c.got, want)
		}
	}
}

func TestCommandLinesThatLoadersWouldChangeAreRefused(t *testing.T) {
	for _, c := range []struct{ line, why string }{
		{"", ""},
		{"dnbd=[ff15::1]:debian@3 panic=-1 a;b $ {x} a#b", ""},
		{strings.Repeat("x", maxCommandLine), ""},
		{strings.Repeat("x", maxCommandLine+1), "Linux takes 2047"},
		{"a\nb", "0x0a"},
		{"a\tb", "0x09"},
		{"straße", "printable ASCII"},
		{`a="b c"`, `a "`},
		{"it's", "a '"},
		{`a\b`, `a \`},
		{"a=${net0/mac}", "${"},
		{"a || b", "word ||"},
		{"a && b", "word &&"},
		{"a ; b", "word ;"},
		{"a #b", "word #b"},
	} {
		err := CheckCommandLine(c.line)
		if c.why == "" && err != nil || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%.40q: %v, want %q", c.line, err, c.why)
		}
	}
}
