package nbd_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/nbd"
)

// BenchmarkClient reads and writes an export of nbdkit's in memory. CPU is this process's, per operation; compare with
//
//	nbdcopy --connections=C --requests=N URI null:
func BenchmarkClient(b *testing.B) {
	const size = 1 << 30
	socket := filepath.Join(b.TempDir(), "s")
	spawn(b, "unix", socket, "nbdkit", "-f", "--exit-with-parent", "-U", socket, "memory", "size=1G")
	address := freeAddress(b)
	spawn(b, "tcp", address, "nbdkit", "-f", "--exit-with-parent", "-i", "127.0.0.1", "-p", address[len("127.0.0.1:"):], "memory", "size=1G")
	uris := map[string]string{"unix": "nbd+unix:///?socket=" + socket, "tcp": "nbd://" + address}

	for _, network := range []string{"unix", "tcp"} {
		fill := connect(b, uris[network], nbd.DialConfig{})
		for off := int64(0); off < size; off += 1 << 20 {
			p := make([]byte, 1<<20)
			p[0] = 1
			ok(b, fill.WriteAt(b.Context(), p, off, false))
		}
		fill.Close()
		for _, c := range []struct {
			verb               string
			connections, depth int
			length             int64
		}{
			{"read", 1, 16, 256 << 10},
			{"read", 4, 16, 256 << 10},
			{"read", 1, 64, 4096},
			{"read", 1, 1, 4096},
			{"write", 1, 16, 256 << 10},
			{"write", 4, 16, 256 << 10},
			{"write", 1, 64, 4096},
		} {
			b.Run(fmt.Sprintf("%s-%s/connections=%d/depth=%d/bytes=%d", network, c.verb, c.connections, c.depth, c.length), func(b *testing.B) {
				client := connect(b, uris[network], nbd.DialConfig{Connections: c.connections})
				do := func(ctx context.Context, p []byte, off int64) error { return client.ReadAt(ctx, p, off) }
				if c.verb == "write" {
					do = func(ctx context.Context, p []byte, off int64) error { return client.WriteAt(ctx, p, off, false) }
				}
				var next atomic.Int64
				var wg sync.WaitGroup
				b.SetBytes(c.length)
				before := processorTime()
				b.ResetTimer()
				for range c.depth {
					wg.Go(func() {
						p := make([]byte, c.length)
						for {
							i := next.Add(1) - 1
							if i >= int64(b.N) {
								return
							}
							if err := do(b.Context(), p, i*c.length%size); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				used := processorTime() - before
				b.ReportMetric(used/float64(b.N)*1e6, "cpu-µs/op")
				b.ReportMetric(used/float64(b.N)/float64(c.length)*(1<<30), "cpu-s/GiB")
			})
		}
	}
}

// processorTime is what this process has used, in seconds.
func processorTime() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
