package nbd

import (
	"strings"
	"testing"
)

func TestURIsAreRead(t *testing.T) {
	for _, c := range []struct {
		in   string
		want URI
	}{
		{"nbd://example.com", URI{Network: "tcp", Host: "example.com", Port: 10809}},
		{"nbd://example.com/", URI{Network: "tcp", Host: "example.com", Port: 10809}},
		{"nbd://example.com:1234/disk", URI{Network: "tcp", Host: "example.com", Port: 1234, Export: "disk"}},
		{"nbd://example.com:/disk", URI{Network: "tcp", Host: "example.com", Port: 10809, Export: "disk"}},
		{"nbd://example.com//disk", URI{Network: "tcp", Host: "example.com", Port: 10809, Export: "/disk"}},
		{"nbd://example.com/a/b", URI{Network: "tcp", Host: "example.com", Port: 10809, Export: "a/b"}},
		{"nbd://example.com/hello%20world%3F", URI{Network: "tcp", Host: "example.com", Port: 10809, Export: "hello world?"}},
		{"NBD://example.com/Käse", URI{Network: "tcp", Host: "example.com", Port: 10809, Export: "Käse"}},
		{"nbd:///disk", URI{Network: "tcp", Host: "localhost", Port: 10809, Export: "disk"}},
		{"nbd://[::1]/", URI{Network: "tcp", Host: "::1", Port: 10809}},
		{"nbd://[fe80::1%25eth0]:99/x", URI{Network: "tcp", Host: "fe80::1%eth0", Port: 99, Export: "x"}},
		{"nbds://alice@example.com/", URI{Network: "tcp", TLS: true, User: "alice", Host: "example.com", Port: 10809}},
		{"nbd+unix:///?socket=/tmp/s", URI{Network: "unix", Socket: "/tmp/s"}},
		{"nbd+unix:///disk?socket=a+b%26c", URI{Network: "unix", Socket: "a+b&c", Export: "disk"}},
		{"nbd+unix:///?socket=%00/abstract", URI{Network: "unix", Socket: "\x00/abstract"}},
		{
			"nbds+unix://alice@/x?socket=s&tls-certificates=/etc/pki/nbd&tls-hostname=h&tls-verify-peer=0&tls-type=x509",
			URI{Network: "unix", TLS: true, User: "alice", Socket: "s", Export: "x", Certificates: "/etc/pki/nbd", Hostname: "h", NoVerify: true},
		},
		{"nbds://h/?tls-username=bob&tls-verify-peer=1", URI{Network: "tcp", TLS: true, Host: "h", Port: 10809, User: "bob"}},
		{"nbd+vsock:///", URI{Network: "vsock", Host: "2", Port: 10809}},
		{"nbds+vsock://3:70000/x", URI{Network: "vsock", TLS: true, Host: "3", Port: 70000, Export: "x"}},
	} {
		got, err := ParseURI(c.in)
		if err != nil || got != c.want {
			t.Errorf("ParseURI(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
			continue
		}
		if again, err := ParseURI(got.String()); err != nil || again != got {
			t.Errorf("%q is written %q, which is read as %+v, %v", c.in, got, again, err)
		}
	}
}

func TestURIsThatAreWrongAreRefusedWithTheReason(t *testing.T) {
	for _, c := range []struct{ in, reason string }{
		{"", "scheme"},
		{"/dev/nbd0", "scheme"},
		{"http://example.com/", "scheme"},
		{"nbd+tcp://example.com/", "scheme"},
		{"nbd:example.com", "two slashes"},
		{"nbd:/example.com", "two slashes"},
		{"nbd://example.com/a#b", "%23"},
		{"nbd://fe80::1:2/", "brackets"},
		{"nbd://example.com:0/", "port 0"},
		{"nbd://example.com:65536/", "port 65536"},
		{"nbd://example.com:http/", "port"},
		{"nbd://a:b@example.com/", "passwords"},
		{"nbd://example.com/%00", "NUL"},
		{"nbd://example.com/%ff", "UTF-8"},
		{"nbd://example.com/" + strings.Repeat("x", 4097), "4096"},
		{"nbd://example.com/%zz", "%zz"},
		{"nbd://example.com/?socket=/tmp/s", "nbd+unix"},
		{"nbd+unix:///disk", "socket=PATH"},
		{"nbd+unix:///disk?socket=", "socket=PATH"},
		{"nbd+unix://host/disk?socket=s", "no host"},
		{"nbd+unix:///?socket=s&socket=t", "twice"},
		{"nbd+unix:///?socket=%z", "socket"},
		{"nbd+vsock://host/", "context id"},
		{"nbd+vsock://02/", "context id"},
		{"nbd://example.com/?cache=yes", `"cache" is not known`},
		{"nbd://example.com/?tls-certificates=x", "nbds"},
		{"nbds://example.com/?tls-type=anon", "x509"},
		{"nbds://example.com/?tls-psk-file=x", "pre-shared"},
		{"nbds://example.com/?tls-verify-peer=no", "0 or 1"},
	} {
		if _, err := ParseURI(c.in); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("ParseURI(%q): %v, want an error with %q", c.in, err, c.reason)
		}
	}
}

func FuzzURI(f *testing.F) {
	for _, s := range []string{
		"nbd://example.com:1/x", "nbds+unix://a@/x?socket=%00s&tls-hostname=h", "nbd+vsock://3/", "nbd://[fe80::1%25e]/%2f?",
		"nbd:////x", "nbd+unix:////?socket=@",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseURI(s)
		if err != nil {
			return
		}
		if again, err := ParseURI(u.String()); err != nil || again != u {
			t.Errorf("%q is read as %+v and written %q, which is read as %+v, %v", s, u, u, again, err)
		}
		_ = u.address()
	})
}
