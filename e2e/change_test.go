//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestAFileThatChangesWhileItIsServed changes all of a file, once as programs do, and once so that its time does not show it.
func TestAFileThatChangesWhileItIsServed(t *testing.T) {
	for name, hidden := range map[string]bool{"openly": false, "behind the server's back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lab.Options{Clients: 2, ServerRate: 200e6})
			const size = 16 * mib
			was, is := random(1, size), random(2, size)
			disk := r.path("disk")
			if err := os.WriteFile(disk, was, 0o644); err != nil {
				t.Fatal(err)
			}
			server := r.serve("s1", disk)
			a := r.attach("c1", "disk", "--io-timeout", "300ms")
			dev, err := os.Open(a.device)
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			if n, failed := a.readOld(dev, was[:mib], 0); n != mib || failed > 0 {
				t.Fatalf("%d reads failed before the change", failed)
			}

			info, err := os.Stat(disk)
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(disk, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(is); err != nil {
				t.Fatal(err)
			}
			if hidden {
				if err := os.Chtimes(disk, info.ModTime(), info.ModTime()); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			n, failed := a.readOld(dev, was[size-mib/8:], size-mib/8)
			t.Logf("after the change %d bytes were the old ones, %d reads failed", n, failed)

			server.await(server.err, "offered again")
			r.dnbd("c2", "copy", "disk", r.path("copy")).succeed()
			got, err := os.ReadFile(r.path("copy"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, is) {
				t.Error("the copy of the next revision is not what the file holds now")
			}
			if said := r.dnbd("c2", "copy", "disk@1", "null:").fail(1); !bytes.Contains([]byte(said), []byte("disk@2")) {
				t.Errorf("asked for what was withdrawn copy says %q, want it to name what there is", said)
			}
		})
	}
}

// readOld reads in steps of a block and says how many bytes it got, all of them the old ones, and how many reads failed.
func (a *attachment) readOld(dev *os.File, old []byte, off int64) (n, failed int) {
	a.t.Helper()
	const block = 64 << 10
	buf := make([]byte, block)
	for i := 0; i < len(old); i += block {
		_, err := dev.ReadAt(buf, off+int64(i))
		switch {
		case errors.Is(err, syscall.EIO):
			failed++
		case err != nil:
			a.t.Errorf("read at %d: %v", off+int64(i), err)
		case !bytes.Equal(buf, old[i:i+block]):
			a.t.Error(firstDifference(buf, old[i:i+block], off+int64(i)))
		default:
			n += block
		}
	}
	return n, failed
}
