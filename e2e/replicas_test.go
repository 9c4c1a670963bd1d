//go:build linux

package e2e

import (
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestAReplicaTakesOver reads through the end of one of two servers.
func TestAReplicaTakesOver(t *testing.T) {
	for name, end := range map[string]func(*process){
		"killed":  (*process).kill,
		"stopped": func(p *process) { p.signal(syscall.SIGSTOP) },
		"ended":   (*process).stop,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lab.Options{Servers: 2, Clients: 1, ServerRate: 100e6})
			image := film(t, 16*mib)
			first := r.serve("s1", "--id", "1", image)
			r.serve("s2", "--id", "2", image)
			sent := r.sent("s2")
			a := r.attach("c1", "film16384")
			var before int64
			w := walk{after: func(off int64) {
				if off == 4*mib {
					before = sent()
					end(first)
				}
			}}
			if err := w.run(a.device, image); err != nil {
				t.Fatal(err)
			}
			t.Logf("the longest read took %v", w.longest)
			// The aim is a tenth of a second; the machine may be busy.
			if w.longest.Seconds() > 5 {
				t.Error("want at most 5 s")
			}
			// 12 MiB were left to read, of which a window of 4 and what the kernel read ahead may have been here already.
			if n := sent() - before; n < 4*mib {
				t.Errorf("the second server has sent %d bytes since, want what was left", n)
			}
		})
	}
}

func TestTwoReplicasShareTheLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Servers: 2, Clients: 2, ServerRate: 100e6})
	image := film(t, 32*mib)
	sent := []func() int64{r.sent("s1"), r.sent("s2")}
	for _, path := range r.copyTogether("film32768", func() {
		one := r.dnbd("s1", "serve", "--id", "1", image)
		r.serve("s2", "--id", "2", image)
		one.await(one.out, "control ")
	}) {
		if err := compare(path, image); err != nil {
			t.Error(err)
		}
	}
	one, two := sent[0](), sent[1]()
	wantOnce(t, one+two, size(t, image), 1.15)
	share := float64(one) / float64(one+two)
	t.Logf("server 1 sent %.2f of the bytes", share)
	if share < 0.3 || share > 0.7 {
		t.Error("want about half")
	}
}
