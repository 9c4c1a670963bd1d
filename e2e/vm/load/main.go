//go:build linux

// Command load puts a load on a block device, past the page cache, and checks what it reads.
//
//	load -mode verify -time 20s DEVICE    write and read back blocks at random; then read all of it
//	load -until FILE DEVICE               the same, until there is a file
//	load -mode random -time 10s DEVICE    read blocks of 4 KiB at random
//	load -mode sequential -time 10s DEVICE
//	load -write -mode random DEVICE       write instead; or sequential
//	load -mode memory SIZE                use SIZE MiB of memory, and check what comes back of it, until the time is over
//
// It prints one line of JSON, and exits with 1 at the first error or byte that is not what was written.
package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// block is the unit of verify and random, and chunk that of sequential, in bytes.
const (
	block = 4 << 10
	chunk = 256 << 10
)

// result is what load prints.
type result struct {
	Requests  int64   `json:"requests"`
	PerSecond float64 `json:"per_second"`
	MBs       float64 `json:"mb_s"`
	Longest   float64 `json:"longest_s"` // request, in seconds
}

// load is what the workers share.
type load struct {
	f        *os.File
	size     int64
	workers  int
	flush    bool
	write    bool
	until    time.Time
	file     string // if it is not empty, the load goes on until it is there
	requests atomic.Int64
	bytes    atomic.Int64
	longest  atomic.Int64 // nanoseconds
}

func main() {
	mode := flag.String("mode", "verify", "verify, random, sequential or memory")
	length := flag.Duration("time", 10*time.Second, "how long")
	workers := flag.Int("workers", 16, "requests at once")
	flush := flag.Bool("flush", true, "verify: flush now and then")
	write := flag.Bool("write", false, "random and sequential: write instead")
	file := flag.String("until", "", "go on until there is this `FILE`, instead of -time")
	flag.Parse()
	l := &load{workers: *workers, flush: *flush, write: *write, file: *file, until: time.Now().Add(*length)}
	if err := l.run(*mode, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// run puts the load of a mode on what is named.
func (l *load) run(mode, what string) error {
	if mode == "memory" {
		return l.memory(what)
	}
	access := os.O_RDONLY
	if mode == "verify" || l.write {
		access = os.O_RDWR
	}
	f, err := os.OpenFile(what, access|syscall.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if l.size, err = f.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	l.f = f
	work := map[string]func(int) error{"verify": l.verify, "random": l.random, "sequential": l.sequential}[mode]
	if work == nil {
		return fmt.Errorf("no mode %q", mode)
	}
	begin := time.Now()
	errs := make([]error, l.workers)
	var wg sync.WaitGroup
	for w := range l.workers {
		wg.Go(func() { errs[w] = work(w) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return l.report(begin)
}

// report prints what was done since begin.
func (l *load) report(begin time.Time) error {
	took := time.Since(begin).Seconds()
	return json.NewEncoder(os.Stdout).Encode(result{
		Requests: l.requests.Load(), PerSecond: float64(l.requests.Load()) / took, MBs: float64(l.bytes.Load()) / took / 1e6,
		Longest: time.Duration(l.longest.Load()).Seconds(),
	})
}

// aligned is a buffer as O_DIRECT wants it.
func aligned(n int) []byte {
	b := make([]byte, n+block)
	skip := -uintptr(unsafe.Pointer(&b[0])) & (block - 1)
	return b[skip : int(skip)+n]
}

// more says whether to go on.
func (l *load) more() bool {
	if l.file == "" {
		return time.Now().Before(l.until)
	}
	_, err := os.Stat(l.file)
	return err != nil
}

// do makes a request.
func (l *load) do(request func([]byte, int64) (int, error), b []byte, off int64) error {
	begin := time.Now()
	_, err := request(b, off)
	took := int64(time.Since(begin))
	for old := l.longest.Load(); took > old && !l.longest.CompareAndSwap(old, took); old = l.longest.Load() {
	}
	l.requests.Add(1)
	l.bytes.Add(int64(len(b)))
	return err
}

// request is what random and sequential do.
func (l *load) request() func([]byte, int64) (int, error) {
	if l.write {
		return l.f.WriteAt
	}
	return l.f.ReadAt
}

// random reads or writes at random.
func (l *load) random(int) error {
	b := aligned(block)
	for l.more() {
		if err := l.do(l.request(), b, rand.Int64N(l.size/block)*block); err != nil {
			return err
		}
	}
	return nil
}

// sequential reads or writes a part of the device, again and again.
func (l *load) sequential(w int) error {
	b := aligned(chunk)
	part := l.size / int64(l.workers) / chunk * chunk
	for off := int64(0); l.more(); off = (off + chunk) % part {
		if err := l.do(l.request(), b, int64(w)*part+off); err != nil {
			return err
		}
	}
	return nil
}

// memory writes to each page of an area of memory and reads all of it back, again and again.
func (l *load) memory(mebibytes string) error {
	n, err := strconv.Atoi(mebibytes)
	if err != nil {
		return err
	}
	area, err := syscall.Mmap(-1, 0, n<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("take %d MiB of memory: %w", n, err)
	}
	begin := time.Now()
	for round := uint64(1); round == 1 || l.more(); round++ {
		for off := 0; off < len(area); off += 8 {
			binary.LittleEndian.PutUint64(area[off:], round<<48|uint64(off))
		}
		for off := 0; off < len(area); off += 8 {
			if got, want := binary.LittleEndian.Uint64(area[off:]), round<<48|uint64(off); got != want {
				return fmt.Errorf("the memory at %d is %#x, want %#x", off, got, want)
			}
		}
		l.requests.Add(int64(2 * len(area) / block))
		l.bytes.Add(int64(2 * len(area)))
	}
	return l.report(begin)
}

// verify writes and reads blocks of its own: each worker has those whose number it is the remainder of.
func (l *load) verify(w int) error {
	generations := make([]uint64, (l.size/block-int64(w)+int64(l.workers)-1)/int64(l.workers))
	b := aligned(block)
	check := func(i int) error {
		n := int64(i*l.workers + w)
		if err := l.do(l.f.ReadAt, b, n*block); err != nil {
			return err
		}
		for off := 0; generations[i] > 0 && off < block; off += 16 {
			if number, generation := binary.LittleEndian.Uint64(b[off:]), binary.LittleEndian.Uint64(b[off+8:]); number != uint64(n) ||
				generation != generations[i] {
				return fmt.Errorf("block %d has generation %d of block %d, want generation %d", n, generation, number, generations[i])
			}
		}
		return nil
	}
	for round := uint64(1); l.more(); round++ {
		i := rand.IntN(len(generations))
		if round%3 == 0 {
			if err := check(i); err != nil {
				return err
			}
			continue
		}
		n := i*l.workers + w
		for off := 0; off < block; off += 16 {
			binary.LittleEndian.PutUint64(b[off:], uint64(n))
			binary.LittleEndian.PutUint64(b[off+8:], round)
		}
		if err := l.do(l.f.WriteAt, b, int64(n)*block); err != nil {
			return err
		}
		generations[i] = round
		if l.flush && round%256 == 0 {
			if err := l.f.Sync(); err != nil {
				return err
			}
		}
	}
	for i := range generations {
		if err := check(i); err != nil {
			return err
		}
	}
	return nil
}
