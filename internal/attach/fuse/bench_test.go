//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"context"
	"io"
	"os"
	"testing"

	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/attach"
	"golang.org/x/sys/unix"
)

// BenchmarkSequentialRead reads a device in memory from its first byte to its last in pieces of 1 MiB, each time with
// cold caches: through the file, and through the loop device.
func BenchmarkSequentialRead(b *testing.B) {
	if why := New("").Available(); why != nil {
		b.Skip(why)
	}
	a, err := New(b.TempDir()).Attach(context.Background(), blocktest.NewMemory(random(1<<30)), attach.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			b.Error(err)
		}
	}()
	for name, path := range map[string]string{"file": a.(*attachment).place.diskPath(), "loop": a.Path()} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(1 << 30)
			for b.Loop() {
				b.StopTimer()
				fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					b.Fatal(err)
				}
				if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
					b.Fatal(err)
				}
				f := os.NewFile(uintptr(fd), path)
				b.StartTimer()
				if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20)); err != nil || n != 1<<30 {
					b.Fatal(n, err)
				}
				f.Close()
			}
		})
	}
}
