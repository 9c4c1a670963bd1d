package cached

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

const size = 5<<20 + 777

func randomBytes() []byte {
	p := make([]byte, size)
	rand.NewChaCha8([32]byte{3}).Read(p)
	return p
}

// counted returns d, and counts the bytes that are read from it.
func counted(d block.Device, n *atomic.Int64) block.Device {
	return block.Around(d, func(_ context.Context, r block.Request, do func() error) error {
		if r.Op == block.Read {
			n.Add(r.Len)
		}
		return do()
	})
}

// read fails the test unless the bytes at off are want's there.
func read(t *testing.T, d block.Device, want []byte, off, n int64) {
	t.Helper()
	got := make([]byte, n)
	if err := d.ReadAt(t.Context(), got, off); err != nil || !bytes.Equal(got, want[off:off+n]) {
		t.Errorf("read %d bytes at %d: wrong bytes, or %v", n, off, err)
	}
}

func TestCachedConforms(t *testing.T) {
	for _, memory := range []int64{0, 10 * BlockSize, 1 << 30} {
		blocktest.ConformWritable(t, func(*testing.T) block.Device { return New(blocktest.NewDisk(1<<20+777), memory) })
	}
	data := randomBytes()
	blocktest.Conform(t, data, func(*testing.T) block.Device { return New(blocktest.NewMemory(data), 1<<20) })
}

func TestItPrefetchesWhateverIsBelow(t *testing.T) {
	if got := block.Has(New(blocktest.NewMemory(nil), 1<<20)); got != block.CanPrefetch {
		t.Errorf("over a device that is only read it has %b", got)
	}
}

func TestWhatWasReadIsReadOnce(t *testing.T) {
	data := randomBytes()
	var n atomic.Int64
	d := New(counted(blocktest.NewMemory(data), &n), 1<<30)
	defer d.Close()
	for range 3 {
		read(t, d, data, 0, size)
		read(t, d, data, 100, 1000)
	}
	if n.Load() != size {
		t.Errorf("%d bytes were read of a device of %d", n.Load(), size)
	}
}

func TestTheBlockUsedLongestAgoMakesRoom(t *testing.T) {
	data := randomBytes()
	var n atomic.Int64
	d := New(counted(blocktest.NewMemory(data), &n), 3*BlockSize)
	defer d.Close()
	for _, c := range []struct {
		block int64
		hit   bool
	}{{0, false}, {1, false}, {2, false}, {0, true}, {3, false}, {0, true}, {2, true}, {1, false}, {3, false}} {
		before := n.Load()
		read(t, d, data, c.block*BlockSize+5, 10)
		if hit := n.Load() == before; hit != c.hit {
			t.Errorf("block %d: in the cache %v, want %v", c.block, hit, c.hit)
		}
	}
}

func TestWhatIsPrefetchedIsThere(t *testing.T) {
	data := randomBytes()
	var n atomic.Int64
	d := New(counted(blocktest.NewMemory(data), &n), 20*BlockSize)
	defer d.Close()
	if err := d.(block.Prefetcher).Prefetch(t.Context(), 0, size); err != nil {
		t.Fatal(err)
	}
	before := n.Load()
	read(t, d, data, 0, 10*BlockSize)
	if n.Load() != before || before != 10*BlockSize {
		t.Errorf("%d bytes were prefetched, %d read later", before, n.Load()-before)
	}
}

func TestReadersOfABlockShareOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := randomBytes()
		var n atomic.Int64
		gate := make(chan struct{})
		d := New(blocktest.Gated(counted(blocktest.NewMemory(data), &n), gate), 1<<20)
		defer d.Close()
		var wg sync.WaitGroup
		// One of them gives up, and that harms nobody.
		ctx, giveUp := context.WithCancel(t.Context())
		wg.Go(func() {
			if err := d.ReadAt(ctx, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up: %v", err)
			}
		})
		synctest.Wait()
		for i := range int64(20) {
			wg.Go(func() { read(t, d, data, i*100, BlockSize) })
		}
		synctest.Wait()
		giveUp()
		synctest.Wait()
		close(gate)
		wg.Wait()
		if n.Load() != 2*BlockSize {
			t.Errorf("%d bytes were read for two blocks", n.Load())
		}
	})
}

func TestALoadEndsWhenNobodyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := randomBytes()
		gate := make(chan struct{})
		ended := make(chan error, 1)
		slow := block.Around(blocktest.NewMemory(data), func(ctx context.Context, _ block.Request, do func() error) error {
			select {
			case <-gate:
				return do()
			case <-ctx.Done():
				ended <- ctx.Err()
				return ctx.Err()
			}
		})
		d := New(slow, 1<<20)
		ctx, giveUp := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- d.ReadAt(ctx, make([]byte, 10), 0) }()
		synctest.Wait()
		giveUp()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context.Canceled", err)
		}
		<-ended
		// Its end is not the next one's.
		close(gate)
		read(t, d, data, 0, 10)
		d.Close()
	})
}

func TestAFailedLoadIsTriedAgain(t *testing.T) {
	data := randomBytes()
	bad := errors.New("away")
	failing := true
	d := New(blocktest.Faulty(blocktest.NewMemory(data), func(block.Request) error {
		if failing {
			return bad
		}
		return nil
	}), 1<<20)
	defer d.Close()
	if err := d.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, bad) {
		t.Errorf("%v, want the device's error", err)
	}
	failing = false
	read(t, d, data, 0, 10)
}

func TestABadSectorHarmsNoOtherOfItsBlock(t *testing.T) {
	data := randomBytes()
	bad := errors.New("worn out")
	const sector = 3 * BlockSize / 2
	d := New(blocktest.Faulty(blocktest.NewMemory(data), func(r block.Request) error {
		if r.Off <= sector && r.Off+r.Len > sector {
			return bad
		}
		return nil
	}), 1<<20)
	defer d.Close()
	read(t, d, data, BlockSize, 4096)
	read(t, d, data, sector+1, 2*BlockSize)
	if err := d.ReadAt(t.Context(), make([]byte, 10), sector-5); !errors.Is(err, bad) {
		t.Errorf("the sector itself: %v", err)
	}
}

func TestCloseEndsReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(blocktest.Gated(blocktest.NewMemory(randomBytes()), make(chan struct{})), 1<<20)
		result := make(chan error, 1)
		go func() { result <- d.ReadAt(t.Context(), make([]byte, 10), 0) }()
		synctest.Wait()
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if err := <-result; !errors.Is(err, block.ErrClosed) {
			t.Errorf("a read under way: %v, want ErrClosed", err)
		}
	})
}

func TestAWriteReachesTheDeviceAndTheCache(t *testing.T) {
	disk := blocktest.NewDisk(size)
	var n atomic.Int64
	d := New(counted(disk, &n), 1<<20)
	defer d.Close()
	want := make([]byte, size)
	read(t, d, want, 0, 3*BlockSize)
	before := n.Load()
	p := bytes.Repeat([]byte{9}, BlockSize)
	if err := d.(block.Writer).WriteAt(t.Context(), p, BlockSize/2, true); err != nil {
		t.Fatal(err)
	}
	copy(want[BlockSize/2:], p)
	read(t, d, want, 0, 3*BlockSize)
	if n.Load() != before {
		t.Error("what was written was read again")
	}
	disk.Crash(nil)
	read(t, disk, want, 0, size)
}

// stepped is a disk whose reads and writes say when they have been done, and are answered when told.
type stepped struct {
	block.Device
	done, answer map[block.Op]chan struct{}
}

func newStepped() *stepped {
	s := &stepped{done: map[block.Op]chan struct{}{}, answer: map[block.Op]chan struct{}{}}
	for _, op := range []block.Op{block.Read, block.Write} {
		s.done[op], s.answer[op] = make(chan struct{}), make(chan struct{})
	}
	s.Device = block.Around(blocktest.NewDisk(size), func(_ context.Context, r block.Request, do func() error) error {
		err := do()
		s.done[r.Op] <- struct{}{}
		<-s.answer[r.Op]
		return err
	})
	return s
}

func TestALoadThatAWriteOvertookIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStepped()
		d := New(s.Device, 1<<20)
		go d.ReadAt(t.Context(), make([]byte, 10), 0)
		<-s.done[block.Read] // it has read the old bytes
		written := make(chan error)
		go func() { written <- d.(block.Writer).WriteAt(t.Context(), []byte("new"), 0, false) }()
		<-s.done[block.Write]
		s.answer[block.Write] <- struct{}{}
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 3)
		result := make(chan error)
		go func() { result <- d.ReadAt(t.Context(), got, 0) }()
		<-s.done[block.Read] // it asks anew, and does not join
		close(s.answer[block.Read])
		if err := <-result; err != nil || string(got) != "new" {
			t.Errorf("read %q after the write, %v", got, err)
		}
		synctest.Wait()
		if err := d.ReadAt(t.Context(), got, 0); err != nil || string(got) != "new" {
			t.Errorf("then read %q, %v", got, err)
		}
		d.Close()
	})
}

func TestWritesThatCrossAreReadFromTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := blocktest.NewDisk(size)
		// The writes are done in one order, and answered in the other.
		order := map[byte]chan struct{}{'a': make(chan struct{}), 'b': make(chan struct{})}
		d := New(&reordered{disk, order}, 1<<20)
		defer d.Close()
		read(t, d, make([]byte, size), 0, 10)
		var wg sync.WaitGroup
		for _, c := range []byte("ab") {
			wg.Go(func() {
				if err := d.(block.Writer).WriteAt(t.Context(), []byte{c}, 0, false); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		close(order['b'])
		synctest.Wait()
		close(order['a'])
		wg.Wait()
		read(t, d, []byte("b"), 0, 1)
	})
}

// reordered does writes at once, and answers each when the channel of its first byte is closed.
type reordered struct {
	*blocktest.Disk
	order map[byte]chan struct{}
}

func (r *reordered) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	err := r.Disk.WriteAt(ctx, p, off, fua)
	<-r.order[p[0]]
	return err
}

func TestAFailedWriteLeavesNothingBehind(t *testing.T) {
	bad := errors.New("worn out")
	d := New(blocktest.Faulty(blocktest.NewDisk(size), func(r block.Request) error {
		if r.Op == block.Write {
			return bad
		}
		return nil
	}), 1<<20)
	defer d.Close()
	read(t, d, make([]byte, size), 0, 10)
	if err := d.(block.Writer).WriteAt(t.Context(), []byte("new"), 0, false); !errors.Is(err, bad) {
		t.Errorf("%v, want the device's error", err)
	}
	read(t, d, make([]byte, size), 0, 10)
}
