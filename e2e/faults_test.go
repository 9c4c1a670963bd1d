//go:build linux

package e2e

import (
	"os"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// ways are those in which two servers are read from. Caches are small, so that what was read is read again.
var ways = map[string]struct {
	server []string // flags
	client func(r *rig) []string
}{
	"in the group": {nil, func(*rig) []string { return []string{"--cache-size", "1MiB"} }},
	"over NBD": {[]string{"--nbd", ":10809"}, func(r *rig) []string {
		return []string{"--cache-size", "1MiB", "--unicast", r.lab.Addr("s1").String(), "--unicast", r.lab.Addr("s2").String()}
	}},
}

// TestAReplicaWhoseDiskRotsIsNotNoticed changes bytes under one of two servers, such that the file's time does not show it.
func TestAReplicaWhoseDiskRotsIsNotNoticed(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lab.Options{Servers: 2, Clients: 1, ServerRate: 200e6})
			image := film(t, 16*mib)
			info, err := os.Stat(image)
			if err != nil {
				t.Fatal(err)
			}
			disk := r.path("disk")
			copyFile(t, image, disk)
			copyFile(t, image+".dnbd", disk+".dnbd")
			untouched := func() {
				if err := os.Chtimes(disk, info.ModTime(), info.ModTime()); err != nil {
					t.Fatal(err)
				}
			}
			untouched()
			rotten := r.serve("s1", append([]string{"--id", "1", disk}, way.server...)...)
			r.serve("s2", append([]string{"--id", "2", image}, way.server...)...)
			a := r.attach("c1", "film16384", way.client(r)...)
			w := walk{after: func(off int64) {
				if off != 4*mib {
					return
				}
				f, err := os.OpenFile(disk, os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(random(3, 8*mib), 8*mib); err != nil {
					t.Fatal(err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				untouched()
			}}
			if err := w.run(a.device, image); err != nil {
				t.Error(err)
			}
			t.Logf("the longest read took %v", w.longest)
			rotten.await(rotten.err, "image withdrawn")
		})
	}
}

// TestAReplicaWhoseDiskFailsIsNotNoticed reads from two servers, one of which has a device whose reads often fail with EIO.
func TestAReplicaWhoseDiskFailsIsNotNoticed(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Servers: 2, Clients: 1, ServerRate: 200e6})
	image := film(t, 16*mib)
	source := r.serve("s1", "--group", "none", "--nbd", ":10810", "--error-rate", "20%", image)
	source.await(source.out, "nbd ")
	disk := r.attach("s1", "nbd://"+r.lab.Addr("s1").String()+":10810/film16384")
	copyFile(t, image+".dnbd", disk.device+".dnbd")
	t.Cleanup(func() {
		if err := os.Remove(disk.device + ".dnbd"); err != nil {
			t.Error(err)
		}
	})
	failing := r.serve("s1", "--id", "1", "film16384="+disk.device)
	r.serve("s2", "--id", "2", image)
	a := r.attach("c1", "film16384", "--cache-size", "1MiB")
	w := walk{}
	if err := w.run(a.device, image); err != nil {
		t.Error(err)
	}
	t.Logf("the longest read took %v", w.longest)
	failing.await(failing.err, "read block")
}

// TestAReplicaThatIsCutOffIsNotNoticedAndComesBack cuts one of two servers off while a device is read, and joins it again.
func TestAReplicaThatIsCutOffIsNotNoticedAndComesBack(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			need(t, "blockdev")
			r := newRig(t, lab.Options{Servers: 2, Clients: 1, ServerRate: 100e6})
			image := film(t, 32*mib)
			r.serve("s1", append([]string{"--id", "1", image}, way.server...)...)
			r.serve("s2", append([]string{"--id", "2", image}, way.server...)...)
			a := r.attach("c1", "film32768", way.client(r)...)
			w := walk{after: func(off int64) {
				if off == 8*mib {
					if err := r.lab.Block("s1"); err != nil {
						t.Fatal(err)
					}
				}
			}}
			if err := w.run(a.device, image); err != nil {
				t.Fatal(err)
			}
			t.Logf("the longest read took %v", w.longest)
			if w.longest > 5*time.Second { // the machine may be busy
				t.Error("want 5 s at most")
			}
			if err := r.lab.Unblock("s1"); err != nil {
				t.Fatal(err)
			}
			sent := r.sent("s1")
			for deadline := time.Now().Add(patience); sent() < 4*mib; {
				if time.Now().After(deadline) {
					t.Fatalf("the server is back, and has sent %d bytes", sent())
				}
				a.flush()
				if err := compare(a.device, image); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
