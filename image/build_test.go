package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// rootOf is the documented tree in its plainest form: hashes of blocks, run together, hashed in blocks, until there is one.
func rootOf(data []byte, blockSize int) Hash {
	var page []byte
	for len(data) > 0 {
		n := min(len(data), blockSize)
		h := Sum(data[:n])
		page, data = append(page, h[:]...), data[n:]
	}
	if len(page) <= blockSize {
		return Sum(page)
	}
	return rootOf(page, blockSize)
}

func TestBuildHashesAnySize(t *testing.T) {
	data := randomBytes(129*4096+1, 1)
	copy(data[8192:], make([]byte, 3*4096)) // some zero blocks
	for _, size := range []int{
		1, 31, 4095, 4096, 4097, 2*4096 - 1, 2 * 4096, 2*4096 + 1, 127 * 4096, 128*4096 - 1, 128 * 4096, 128*4096 + 1, 129*4096 + 1,
	} {
		for _, blockSize := range []int{4096, 65536} {
			tree := build(t, data[:size], blockSize)
			if want := rootOf(data[:size], blockSize); tree.Root() != want {
				t.Errorf("root of %d bytes in blocks of %d = %v, want %v", size, blockSize, tree.Root(), want)
			}
			g := tree.Geometry()
			for b := range g.Data() {
				if mustHash(t, tree, b) != Sum(data[g.Offset(b):][:g.Len(b)]) {
					t.Errorf("%d bytes in blocks of %d: wrong hash of block %d", size, blockSize, b)
				}
			}
			for b := g.Data(); b < g.Total(); b++ {
				if mustHash(t, tree, b) != Sum(mustPage(t, tree, b)) {
					t.Errorf("%d bytes in blocks of %d: wrong hash of page %d", size, blockSize, b)
				}
			}
		}
	}
}

func TestTheRootIsAsEver(t *testing.T) {
	const want = "7ad08d854347a53fddc78eaff4326927a0fe3dd403dc85d424f914b9ccca5fef"
	if got := build(t, []byte("dnbd"), DefaultBlockSize).Root().String(); got != want {
		t.Errorf("root = %s, want %s", got, want)
	}
}

func TestMappedAndReadFilesHaveTheSameTree(t *testing.T) {
	data := randomBytes(9<<20+4096+17, 2)
	f, err := os.Open(writeImage(t, data))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, blockSize := range []int{MinBlockSize, DefaultBlockSize, MaxBlockSize} {
		mapped, _, err := Build(t.Context(), f, int64(len(data)), blockSize, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := build(t, data, blockSize).Root(); mapped.Root() != want {
			t.Errorf("blocks of %d: root %v, want %v", blockSize, mapped.Root(), want)
		}
	}
}

func TestProgressNeverGoesBackAndEndsAtTheSize(t *testing.T) {
	const size = 40<<20 + 5
	var last int64
	var inside atomic.Int32
	_, _, err := Build(t.Context(), bytes.NewReader(make([]byte, size)), size, DefaultBlockSize, func(done int64) {
		if inside.Add(1) != 1 {
			t.Error("progress is called by two goroutines at once")
		}
		if done <= last {
			t.Errorf("progress went from %d to %d", last, done)
		}
		last = done
		inside.Add(-1)
	})
	if err != nil || last != size {
		t.Errorf("Build: %v, progress ended at %d of %d", err, last, size)
	}
}

func TestBuildEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	const size = 100 << 20
	_, _, err := Build(ctx, bytes.NewReader(make([]byte, size)), size, DefaultBlockSize, func(int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Build = %v, want context.Canceled", err)
	}
}

func TestBuildOfAReaderThatEndsEarlyFails(t *testing.T) {
	if _, _, err := Build(t.Context(), bytes.NewReader(make([]byte, 99_999)), 100_000, 4096, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Build = %v, want io.ErrUnexpectedEOF", err)
	}
}

func TestBuildOfAFileThatIsCutWhileItIsMappedFails(t *testing.T) {
	const size = 256 << 20
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	_, _, err = Build(t.Context(), f, size, DefaultBlockSize, func(int64) {
		if err := f.Truncate(1 << 20); err != nil {
			t.Error(err)
		}
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Build = %v, want io.ErrUnexpectedEOF", err)
	}
}

func TestAFaultInTheHashIsAnError(t *testing.T) {
	// Not zero, so that it is the hash library's code that meets the missing page.
	f, err := os.OpenFile(writeImage(t, randomBytes(1<<20, 1)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := mapFile(f, 0, 1<<20)
	if errors.Is(err, errors.ErrUnsupported) {
		skip(t, "files are not mapped on this system")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unmapFile(p)
	if err := f.Truncate(1<<19 + 40960); err != nil {
		t.Fatal(err)
	}
	h := newHasher(f, mustGeometry(t, 1<<20, DefaultBlockSize), func(uint32, Hash, uint64) {}, nil)
	if !h.mapped(p[:1<<19], 0) {
		t.Error("the pages that are there could not be hashed")
	}
	if h.mapped(p, 0) {
		t.Error("a page that is not there was hashed")
	}
}

func BenchmarkSum(b *testing.B) {
	p := randomBytes(64<<10, 1)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		Sum(p)
	}
}

// BenchmarkSumAllCores is what BenchmarkBuild is measured against: the hash library alone on all cores, over as many bytes in
// memory, so that either has to fetch them from there. CPU time, unlike the rate, means something on a machine that is busy.
func BenchmarkSumAllCores(b *testing.B) {
	benchmarkSum(b, benchmarkSize)
}

// BenchmarkSumInCache is the hash library at its best: on all cores, always the same 64 KiB, which never leave the core's cache.
func BenchmarkSumInCache(b *testing.B) {
	benchmarkSum(b, DefaultBlockSize)
}

const benchmarkSize = 256 << 20

// benchmarkSum hashes block after block of span random bytes on each core.
func benchmarkSum(b *testing.B, span int) {
	data := randomBytes(span, 1)
	var next atomic.Int64
	b.SetBytes(DefaultBlockSize)
	start := cpuSeconds(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			at := (int(next.Add(1)) * DefaultBlockSize) % span
			Sum(data[at:][:DefaultBlockSize])
		}
	})
	reportCPU(b, start, DefaultBlockSize)
}

func BenchmarkBuild(b *testing.B) {
	const size = benchmarkSize
	path := writeImage(b, randomBytes(size, 1))
	runtime.GC()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.SetBytes(size)
	start := cpuSeconds(b)
	for b.Loop() {
		if _, _, err := Build(b.Context(), f, size, DefaultBlockSize, nil); err != nil {
			b.Fatal(err)
		}
	}
	reportCPU(b, start, size)
}

// cpuSeconds is the CPU time that this process has used, in user mode and in the kernel.
func cpuSeconds(b *testing.B) float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

func reportCPU(b *testing.B, start, bytesPerOp float64) {
	b.ReportMetric((cpuSeconds(b)-start)/(float64(b.N)*bytesPerOp/(1<<30)), "cpu-s/GiB")
}
