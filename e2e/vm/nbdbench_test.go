//go:build linux

package vm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// benchRounds is how often each attachment is measured, in turn; the median counts.
const benchRounds = 5

// BenchmarkNBDAttachments reads the same server's export through nbd-client of the NBD project and through this program's
// attachments, in one guest: sequentially, both past the page cache and through it, and 4 KiB at random.
func BenchmarkNBDAttachments(b *testing.B) {
	need(b, "nbdkit", "nbd-client")
	for _, k := range vm.Kernels() {
		b.Run(string(k), func(b *testing.B) {
			vm.Need(b)
			l := lab.ForTest(b, lab.Options{VMs: 1})
			server := startForeign(b, l, 64<<20, nil, nil)
			g := rack.Boot(b, k, vm.Options{
				Lab: l, Host: "v1", Loadable: []string{"nbd"}, CPUs: 2, Files: loadProgram(b), Programs: []string{"nbd-client"},
			})
			do := func(name string, args ...string) string {
				ctx, cancel := context.WithTimeout(b.Context(), patience)
				defer cancel()
				out, err := g.Run(ctx, name, args...)
				if err != nil {
					b.Fatal(err)
				}
				return out
			}
			do("modprobe", "nbd")
			do("nbd-client", server.addr, "/dev/nbd0")
			do("dnbd", "attach", "--driver", "nbd", "--connections", "1", server.uri(), "/dev/nbd1")
			do("dnbd", "attach", "--driver", "nbd", "--connections", "2", server.uri(), "/dev/nbd2")
			devices := []string{"nbd-client", "dnbd-1-connection", "dnbd-2-connections"}
			for _, m := range []struct {
				name, unit string
				measure    func(device string) float64
			}{
				{"sequential", "MB/s", func(device string) float64 {
					return loadResult(b, do("/load", "-mode", "sequential", "-workers", "2", "-time", "3s", device)).MBs
				}},
				{"cached", "MB/s", func(device string) float64 {
					do("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")
					begun := time.Now()
					do("dd", "if="+device, "of=/dev/null", "bs=1M")
					return 64 * 1.048576 / time.Since(begun).Seconds()
				}},
				{"random", "IOPS", func(device string) float64 {
					return loadResult(b, do("/load", "-mode", "random", "-workers", "16", "-time", "3s", device)).PerSecond
				}},
			} {
				got := make([][]float64, len(devices))
				for range benchRounds {
					for i := range devices {
						got[i] = append(got[i], m.measure(fmt.Sprintf("/dev/nbd%d", i)))
					}
				}
				for i, name := range devices {
					slices.Sort(got[i])
					b.ReportMetric(got[i][benchRounds/2], strings.Join([]string{name, m.name, m.unit}, ":"))
				}
			}
		})
	}
}

// loadResult is what load has printed.
func loadResult(b *testing.B, line string) (r struct {
	PerSecond float64 `json:"per_second"`
	MBs       float64 `json:"mb_s"`
},
) {
	b.Helper()
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		b.Fatal(err)
	}
	return r
}
