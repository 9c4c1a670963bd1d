//go:build linux

package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestBadInputIsAnErrorThatNamesItAndDisturbsNobody tries what cannot work beside a server that works.
func TestBadInputIsAnErrorThatNamesItAndDisturbsNobody(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	r := newRig(t, lab.Options{Servers: 2, Clients: 1})
	image := film(t, mib)
	for name, content := range map[string][]byte{"other": random(9, mib), "empty": nil, "moved": random(8, 2*mib)} {
		if err := os.WriteFile(r.path(name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, image+".dnbd", r.path("moved.dnbd"))
	r.serve("s1", "--id", "1", image)
	server := r.lab.Addr("s1").String()
	cases := []struct {
		name string
		host string
		args []string
		code int
		says []string
	}{
		{"id of another server", "s2", []string{"serve", "--id", "1", image}, 1, []string{"id 1", server, "--id"}},
		{
			"other bytes under a name", "s2",
			[]string{"serve", "film1024=" + r.path("other")},
			1,
			[]string{"film1024 revision 1", server, "other name or revision"},
		},
		{"no such file", "s2", []string{"serve", r.path("none")}, 1, []string{r.path("none"), "no such file"}},
		{"empty file", "s2", []string{"serve", r.path("empty")}, 1, []string{r.path("empty"), "empty"}},
		{"sidecar of another file", "s2", []string{"image", "info", r.path("moved")}, 1, []string{r.path("moved"), "dnbd image create"}},
		{"no such interface", "s2", []string{"serve", "--iface", "eth9", image}, 1, []string{"--iface", "eth9", "eth0"}},
		{"group that is none", "s2", []string{"serve", "--group", "10.0.0.1", image}, 1, []string{"10.0.0.1", "multicast"}},
		{"copy from no group", "c1", []string{"copy", "dnbd://10.0.0.1/x", "null:"}, 1, []string{"10.0.0.1", "multicast"}},
		{"no such image", "c1", []string{"copy", "none", "null:"}, 1, []string{"none", "film1024"}},
		{
			"small cache", "c1",
			[]string{"attach", "--cache", r.path("cache"), "--cache-size", "4K", "film1024", r.dev + "/x"},
			1,
			[]string{"--cache", r.path("cache"), "too few", "at least"},
		},
		{"unknown flag", "c1", []string{"copy", "--sizes", "x", "null:"}, 2, []string{"--sizes"}},
		{"no arguments", "c1", []string{"copy"}, 2, []string{"IMAGE", "DEST"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			said := r.dnbd(c.host, c.args...).fail(c.code)
			t.Log(strings.TrimSpace(said))
			for _, words := range c.says {
				if !strings.Contains(said, words) {
					t.Errorf("it does not say %q", words)
				}
			}
		})
	}
	// A server makes a sidecar that does not fit anew.
	p := r.serve("s2", "moved="+r.path("moved"))
	p.stop()
	r.dnbd("c1", "copy", "film1024", r.path("copy")).succeed()
	if err := compare(r.path("copy"), image); err != nil {
		t.Errorf("after all this: %v", err)
	}
}
