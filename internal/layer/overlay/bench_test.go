package overlay

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/source/file"
)

// benchSize is the size in bytes of the devices that are measured.
const benchSize = 256 << 20

// BenchmarkWrites fills a device with what is asked for one after the other in pieces of 1 MiB, or in pieces of 4 KiB in random
// order, 32 at a time; for the first time, and over what is there; with a flush at the end. It reads pieces of 4 KiB, too.
// Each is done to a file and to an overlay in one beside it. DNBD_BENCH_DIR says where.
func BenchmarkWrites(b *testing.B) {
	dir := os.Getenv("DNBD_BENCH_DIR")
	if dir == "" {
		dir = b.TempDir()
	}
	for name, open := range map[string]func(b *testing.B, path string) block.Full{
		"file": func(b *testing.B, path string) block.Full {
			f, err := file.Create(path, benchSize)
			if err != nil {
				b.Fatal(err)
			}
			return f
		},
		"overlay": func(b *testing.B, path string) block.Full {
			f, err := file.Create(path, Size(benchSize))
			if err != nil {
				b.Fatal(err)
			}
			d, err := Open(b.Context(), blocktest.NewMemory(make([]byte, benchSize)), f, of(benchSize))
			if err != nil {
				b.Fatal(err)
			}
			return d
		},
	} {
		for _, c := range []struct {
			name  string
			piece int64
			again bool
			read  bool
		}{
			{"sequential", 1 << 20, false, false},
			{"sequential-again", 1 << 20, true, false},
			{"random", BlockSize, false, false},
			{"random-again", BlockSize, true, false},
			{"random-read", BlockSize, true, true},
		} {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				b.SetBytes(benchSize)
				path := filepath.Join(dir, "bench")
				for b.Loop() {
					b.StopTimer()
					_ = os.Remove(path) // of the round before
					d := open(b, path)
					if c.again {
						pass(b, d, 1<<20, false)
					}
					b.StartTimer()
					pass(b, d, c.piece, c.read)
					b.StopTimer()
					if err := d.Close(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				_ = os.Remove(path)
			})
		}
	}
}

// pass writes or reads all of a device in pieces: small ones 32 at a time, in random order.
func pass(b *testing.B, d block.Full, piece int64, read bool) {
	b.Helper()
	ctx, workers := context.Background(), 1
	order := make([]int64, benchSize/piece)
	for i := range order {
		order[i] = int64(i) * piece
	}
	if piece < 1<<20 {
		workers = 32
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			p := make([]byte, piece)
			p[0] = 1
			for {
				i := next.Add(1) - 1
				if i >= int64(len(order)) {
					return
				}
				var err error
				if read {
					err = d.ReadAt(ctx, p, order[i])
				} else {
					err = d.WriteAt(ctx, p, order[i], false)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if read {
		return
	}
	if err := d.Flush(ctx); err != nil {
		b.Error(err)
	}
}
