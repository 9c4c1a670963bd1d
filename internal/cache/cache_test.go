package cache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"github.com/zeebo/blake3"
)

// block is entry n of every test: bytes that follow from n, of a length that does too, and their hash.
func block(n, slotSize int) (Key, []byte) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(n))
	b := make([]byte, slotSize-n%3*100)
	rand.NewChaCha8(seed).Read(b)
	return blake3.Sum256(b), b
}

// stores runs a test over each store, with a cache of the given number of slots of 4 KiB.
func stores(t *testing.T, slots int, test func(t *testing.T, c *Cache)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		c, err := NewMemory(int64(slots)*MinSlotSize, MinSlotSize)
		if err != nil {
			t.Fatal(err)
		}
		defer closeCache(t, c)
		test(t, c)
	})
	t.Run("file", func(t *testing.T) {
		c, err := Open(filepath.Join(t.TempDir(), "cache"), sizeFor(slots), MinSlotSize, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer closeCache(t, c)
		test(t, c)
	})
}

// sizeFor is the size of a file with that many slots of 4 KiB.
func sizeFor(slots int) int64 { return dataOffset(int64(slots)) + int64(slots)*MinSlotSize }

func closeCache(t *testing.T, c *Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

// put puts block n.
func put(c *Cache, n int, snooped bool) {
	key, data := block(n, c.slotSize)
	c.Put(key, data, snooped)
}

// get says whether the cache has block n, which it reads whole. Wrong bytes end the test.
func get(t *testing.T, c *Cache, n int) bool {
	t.Helper()
	key, data := block(n, c.slotSize)
	p := make([]byte, len(data))
	if !c.Get(key, p, 0) {
		return false
	}
	if !bytes.Equal(p, data) {
		t.Fatalf("block %d: wrong bytes", n)
	}
	return true
}

// held counts which of the blocks [from, to) are in the cache, without reading them.
func held(c *Cache, from, to int) int {
	n := 0
	for i := from; i < to; i++ {
		key, _ := block(i, c.slotSize)
		if c.Has(key) {
			n++
		}
	}
	return n
}

func TestGetReturnsAnyPartOfWhatWasPut(t *testing.T) {
	stores(t, 8, func(t *testing.T, c *Cache) {
		key, data := block(1, MinSlotSize)
		c.Put(key, data, false)
		for _, r := range []struct{ off, n int }{
			{0, len(data)}, {0, 1}, {1, 1}, {len(data) - 1, 1}, {100, 1000}, {len(data), 0}, {0, 0},
		} {
			p := make([]byte, r.n)
			if !c.Get(key, p, r.off) || !bytes.Equal(p, data[r.off:r.off+r.n]) {
				t.Errorf("Get(%d bytes, %d) failed or gave wrong bytes", r.n, r.off)
			}
		}
		for _, r := range []struct{ off, n int }{
			{0, len(data) + 1}, {len(data), 1}, {len(data) + 1, 0}, {-1, 1}, {1, len(data)}, {math.MaxInt, 1},
		} {
			if c.Get(key, make([]byte, r.n), r.off) {
				t.Errorf("Get(%d bytes, %d) succeeded beyond the entry", r.n, r.off)
			}
		}
	})
}

func TestPutKeepsOnlyWhatFitsASlot(t *testing.T) {
	stores(t, 8, func(t *testing.T, c *Cache) {
		for _, n := range []int{0, MinSlotSize + 1} {
			data := make([]byte, n)
			key := blake3.Sum256(data)
			if c.Put(key, data, false); c.Has(key) {
				t.Errorf("an entry of %d bytes was kept", n)
			}
		}
		one := []byte{7}
		key := blake3.Sum256(one)
		if c.Put(key, one, true); !c.Get(key, one, 0) || one[0] != 7 {
			t.Error("an entry of 1 byte was not kept")
		}
	})
}

func TestNothingIsEvictedWhileSlotsAreFree(t *testing.T) {
	stores(t, 50, func(t *testing.T, c *Cache) {
		for i := range 50 {
			put(c, i, i%2 == 0)
		}
		if n := held(c, 0, 50); n != 50 {
			t.Errorf("%d of 50 blocks are held in 50 slots", n)
		}
		if st := c.Stats(); st.Replaced != 0 || st.Used != 50 || st.Snooped != 25 {
			t.Errorf("stats: %+v", st)
		}
	})
}

func TestCapacityIsRespected(t *testing.T) {
	stores(t, 20, func(t *testing.T, c *Cache) {
		for i := range 200 {
			put(c, i, i%3 == 0)
			if st := c.Stats(); st.Used > 20 || st.Bytes > 20*MinSlotSize {
				t.Fatalf("%d entries of %d bytes in 20 slots", st.Used, st.Bytes)
			}
		}
		if n := held(c, 0, 200); n != 20 {
			t.Errorf("%d entries are held, want 20", n)
		}
		if st := c.Stats(); st.Replaced != 180 {
			t.Errorf("%d were replaced, want 180", st.Replaced)
		}
	})
}

func TestOverheardBlocksDoNotEvictWhatIsReadHere(t *testing.T) {
	for _, c := range []struct {
		name    string
		snooped bool // how the working set came in
	}{{"put for a read", false}, {"overheard and read", true}} {
		t.Run(c.name, func(t *testing.T) {
			snooped := c.snooped
			stores(t, 100, func(t *testing.T, c *Cache) {
				for i := range 80 {
					put(c, i, snooped)
					if snooped && !get(t, c, i) {
						t.Fatal("not held")
					}
				}
				for round := range 2 { // the second round is all ghosts
					for i := range 500 {
						put(c, 1000+i, true)
					}
					if n := held(c, 0, 80); n != 80 {
						t.Errorf("round %d: %d of 80 blocks of the working set are left", round, n)
					}
				}
			})
		})
	}
}

func TestOverheardBlocksMayFillAnIdleCache(t *testing.T) {
	stores(t, 100, func(t *testing.T, c *Cache) {
		for i := range 300 {
			put(c, i, true)
		}
		if n := held(c, 200, 300); n != 100 {
			t.Errorf("%d of the last 100 blocks are held, want all", n)
		}
	})
}

func TestAStreamReadHereLeavesOverheardBlocksATenth(t *testing.T) {
	stores(t, 100, func(t *testing.T, c *Cache) {
		for i := range 90 {
			put(c, i, false)
		}
		for i := range 10 {
			put(c, 100+i, true)
		}
		for i := range 200 {
			put(c, 200+i, false)
		}
		if n := held(c, 100, 110); n != 9 { // below a tenth the main queue gives way
			t.Errorf("%d of 10 overheard blocks are left, want 9", n)
		}
	})
}

func TestABlockThatIsReadAgainOutlivesThoseReadOnce(t *testing.T) {
	stores(t, 50, func(t *testing.T, c *Cache) {
		for i := range 50 {
			put(c, i, false)
		}
		for i := range 5 {
			get(t, c, i)
		}
		for i := range 45 {
			put(c, 100+i, false)
		}
		if n := held(c, 0, 5); n != 5 {
			t.Errorf("%d of 5 blocks that were read again are left", n)
		}
		if n := held(c, 5, 50); n != 0 {
			t.Errorf("%d older blocks that were read once are left", n)
		}
	})
}

func TestABlockWantedAgainSoonAfterItWasEvictedGetsAChance(t *testing.T) {
	stores(t, 20, func(t *testing.T, c *Cache) {
		for i := range 21 {
			put(c, i, false)
		}
		if held(c, 0, 1) != 0 {
			t.Fatal("the oldest block was not evicted")
		}
		put(c, 0, false)
		for i := range 20 {
			put(c, 100+i, false)
		}
		if held(c, 0, 1) != 1 {
			t.Error("the block was evicted with those that were wanted once")
		}
	})
}

func TestPromotionIsCountedOnce(t *testing.T) {
	stores(t, 20, func(t *testing.T, c *Cache) {
		put(c, 1, true)
		put(c, 1, true)
		if st := c.Stats(); st.Promoted != 0 || st.Snooped != 1 {
			t.Errorf("before a read: %+v", st)
		}
		get(t, c, 1)
		get(t, c, 1)
		put(c, 2, true)
		put(c, 2, false) // counts as a read
		get(t, c, 3)
		want := Stats{
			Slots: 20, SlotSize: MinSlotSize, Used: 2, Bytes: 2*MinSlotSize - 300,
			Hits: 2, Misses: 1, Promoted: 2, Snooped: 2,
		}
		if st := c.Stats(); st != want {
			t.Errorf("stats %+v, want %+v", st, want)
		}
	})
}

func TestAClosedCacheMisses(t *testing.T) {
	stores(t, 8, func(t *testing.T, c *Cache) {
		put(c, 1, false)
		closeCache(t, c)
		put(c, 2, false)
		if get(t, c, 1) || held(c, 0, 3) != 0 {
			t.Error("a closed cache has entries")
		}
		closeCache(t, c)
	})
}

func TestBadCapacitiesAreRefused(t *testing.T) {
	for _, c := range []struct {
		capacity int64
		slotSize int
	}{
		{0, 4096},
		{-1, 4096},
		{7 * 4096, 4096},
		{1 << 50, 4096},
		{1 << 20, 0},
		{1 << 20, 4095},
		{1 << 20, 6000},
		{1 << 30, 2 << 20},
		{1 << 20, -4096},
	} {
		if got, err := NewMemory(c.capacity, c.slotSize); err == nil {
			t.Errorf("NewMemory(%d, %d) succeeded", c.capacity, c.slotSize)
			got.Close()
		}
	}
}

// TestReadersNeverSeeAnotherBlock runs readers, each of which checks every byte, against writers that replace slots all
// the time, in a cache so small that most pins are on slots about to be replaced.
func TestReadersNeverSeeAnotherBlock(t *testing.T) {
	stores(t, 8, func(t *testing.T, c *Cache) {
		const blocks = 24
		keys, data := make([]Key, blocks), make([][]byte, blocks)
		for i := range blocks {
			keys[i], data[i] = block(i, MinSlotSize)
		}
		var wg sync.WaitGroup
		for seed := range uint64(12) {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, 3))
				p := make([]byte, MinSlotSize)
				for range 3000 {
					n := rng.IntN(blocks)
					off := rng.IntN(len(data[n]))
					p := p[:rng.IntN(len(data[n])-off)+1]
					switch {
					case !c.Get(keys[n], p, off):
						c.Put(keys[n], data[n], rng.IntN(2) == 0)
					case !bytes.Equal(p, data[n][off:off+len(p)]):
						t.Errorf("block %d: wrong bytes", n)
						return
					}
				}
			})
		}
		wg.Wait()
		for i := range c.slots {
			if n := c.slots[i].pins.Load(); n != 0 {
				t.Errorf("slot %d is left with %d pins", i, n)
			}
		}
		st := c.Stats()
		if st.Hits == 0 || st.Replaced == 0 || st.Bad != 0 || st.Used != held(c, 0, blocks) {
			t.Errorf("stats %+v, held %d", st, held(c, 0, blocks))
		}
	})
}

func TestCloseWaitsForReaders(t *testing.T) {
	stores(t, 8, func(t *testing.T, c *Cache) {
		var wg sync.WaitGroup
		started := make(chan struct{})
		for g := range 4 {
			wg.Go(func() {
				for i := range 500 {
					put(c, i%10, false)
					get(t, c, i%10)
					if g == 0 && i == 20 {
						close(started)
					}
				}
			})
		}
		<-started
		closeCache(t, c)
		wg.Wait()
	})
}

func TestTheIndexTakesAtMost64BytesAnEntry(t *testing.T) {
	p := newPolicy(1000)
	n := len(p.slots)*int(unsafe.Sizeof(p.slots[0])) + len(p.heads)*4 + len(p.ghost)*int(unsafe.Sizeof(p.ghost[0]))
	if n > 64*1000 {
		t.Errorf("%d bytes for 1000 slots", n)
	}
}

func benchmark(b *testing.B, run func(b *testing.B, c *Cache)) {
	const slotSize, slots = 64 << 10, 256
	open := map[string]func() (*Cache, error){
		"memory": func() (*Cache, error) { return NewMemory(slots*slotSize, slotSize) },
		"file": func() (*Cache, error) {
			return Open(filepath.Join(b.TempDir(), "cache"), dataOffset(slots)+slots*slotSize, slotSize, nil)
		},
	}
	for _, name := range []string{"memory", "file"} {
		b.Run(name, func(b *testing.B) {
			c, err := open[name]()
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.SetBytes(slotSize)
			b.ReportAllocs()
			run(b, c)
		})
	}
}

func BenchmarkPut(b *testing.B) {
	benchmark(b, func(b *testing.B, c *Cache) {
		data := make([]byte, c.slotSize)
		var key Key
		n := uint64(0)
		for b.Loop() {
			n++
			binary.LittleEndian.PutUint64(key[:], n*0x9e3779b97f4a7c15)
			c.Put(key, data, n%2 == 0)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	benchmark(b, func(b *testing.B, c *Cache) {
		keys := make([]Key, 200)
		for i := range keys {
			var data []byte
			keys[i], data = block(i*3, c.slotSize)
			c.Put(keys[i], data, false)
		}
		p := make([]byte, c.slotSize)
		n := 0
		for b.Loop() {
			if n++; !c.Get(keys[n%len(keys)], p, 0) {
				b.Fatal("miss")
			}
		}
	})
}

// BenchmarkCopy is what Put and Get in memory are measured against.
func BenchmarkCopy(b *testing.B) {
	from, to := make([]byte, 256*64<<10), make([]byte, 64<<10)
	for i := range from { // memory never written is one shared page of zeros
		from[i] = byte(i)
	}
	b.SetBytes(int64(len(to)))
	n := 0
	for b.Loop() {
		n++
		copy(to, from[n%256*len(to):])
	}
}

func ExampleNewMemory() {
	c, err := NewMemory(64<<20, 64<<10)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	data := []byte("a block")
	key := blake3.Sum256(data)
	c.Put(key, data, true)
	p := make([]byte, 5)
	fmt.Println(c.Get(key, p, 2), string(p))
	// Output: true block
}
