package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/dnbd/dnbd/internal/flock"
)

// lines is a log that counts.
type lines struct{ bytes.Buffer }

func (l *lines) log() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
func (l *lines) count() int        { return strings.Count(l.String(), "\n") }

// mustOpen opens the cache file at path, of whatever size.
func mustOpen(t *testing.T, path string, log *slog.Logger) *Cache {
	t.Helper()
	c, err := Open(path, 0, MinSlotSize, log)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fileWith makes a cache file with that many slots and blocks [0, n), which are in the slots of these numbers.
func fileWith(t *testing.T, slots, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cache")
	c, err := Open(path, sizeFor(slots), MinSlotSize, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		put(c, i, false)
	}
	closeCache(t, c)
	return path
}

// flip inverts one bit of the file.
func flip(t *testing.T, path string, off int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// readable counts which of the blocks [from, to) can be read; wrong bytes end the test.
func readable(t *testing.T, c *Cache, from, to int) int {
	t.Helper()
	n := 0
	for i := from; i < to; i++ {
		if get(t, c, i) {
			n++
		}
	}
	return n
}

func TestARestartKeepsEntriesAndTheirOrder(t *testing.T) {
	path := fileWith(t, 40, 20) // 0..19 read here
	c := mustOpen(t, path, nil)
	for i := 20; i < 40; i++ { // 20..39 overheard, of which 30..34 are read
		put(c, i, true)
	}
	if n := readable(t, c, 30, 35); n != 5 {
		t.Fatalf("%d of 5 blocks are held", n)
	}
	if n := readable(t, c, 0, 2); n != 2 { // 0 and 1 read again
		t.Fatalf("%d of 2 blocks are held", n)
	}
	closeCache(t, c)

	c = mustOpen(t, path, nil)
	defer closeCache(t, c)
	if st := c.Stats(); st.Recovered != 40 || st.Used != 40 || held(c, 0, 40) != 40 {
		t.Fatalf("after the restart: %+v", st)
	}
	for i := range 10 { // probation gives way first, the oldest first
		put(c, 100+i, true)
	}
	if a, b := held(c, 20, 30), held(c, 35, 40); a != 0 || b != 5 {
		t.Errorf("of the unread blocks %d of 10 older and %d of 5 younger are left, want 0 and 5", a, b)
	}
	for i := range 11 + 4 + 10 { // then the main queue, but not what was read again
		put(c, 200+i, false)
	}
	if a, b := held(c, 0, 2), held(c, 30, 35); a != 2 || b != 5 {
		t.Errorf("%d of 2 blocks read twice and %d of 5 blocks promoted late are left, want all", a, b)
	}
	if n := held(c, 2, 20); n > 10 {
		t.Errorf("%d of the 18 oldest blocks are left, want fewer", n)
	}
	for i := range 10 + 2 {
		put(c, 300+i, false)
	}
	if a, b := held(c, 0, 2), held(c, 30, 35); a != 2 || b != 0 {
		t.Errorf("%d of 2 blocks read twice and %d of 5 read once are left, want 2 and 0", a, b)
	}
	if n := readable(t, c, 0, 400); n != 40 {
		t.Errorf("%d blocks can be read, want 40", n)
	}
}

func TestTheOrderGoesOnFromOneRunToTheNext(t *testing.T) {
	path := fileWith(t, 40, 30)
	c := mustOpen(t, path, nil)
	for i := 30; i < 40; i++ {
		put(c, i, false)
	}
	closeCache(t, c)
	c = mustOpen(t, path, nil)
	defer closeCache(t, c)
	for i := range 10 {
		put(c, 100+i, false)
	}
	if a, b := held(c, 0, 10), held(c, 10, 40); a != 0 || b != 30 {
		t.Errorf("%d of the 10 oldest and %d of the 30 younger blocks are left, want 0 and 30", a, b)
	}
}

func TestAFileOfZerosBecomesACacheOfItsSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache")
	const size = 2<<20 + 123
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	var log lines
	c := mustOpen(t, path, log.log())
	if st := c.Stats(); int64(st.Slots) != slotsIn(size, MinSlotSize) || log.count() != 1 {
		t.Errorf("%d slots; log:\n%s", st.Slots, &log)
	}
	for i := range c.Stats().Slots {
		put(c, i, false)
	}
	closeCache(t, c)
	if info, err := os.Stat(path); err != nil || info.Size() != size {
		t.Errorf("the file's size changed: %v %v", info.Size(), err)
	}
	c = mustOpen(t, path, nil)
	defer closeCache(t, c)
	if n := readable(t, c, 0, c.Stats().Slots); n != c.Stats().Slots {
		t.Errorf("%d of %d blocks survived", n, c.Stats().Slots)
	}
}

func TestAMissingFileIsMadeOnlyWhenASizeIsGiven(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache")
	if _, err := Open(path, 0, MinSlotSize, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a size: %v", err)
	}
	for range 2 { // the second finds it
		c, err := Open(path, 1<<20, MinSlotSize, nil)
		if err != nil {
			t.Fatal(err)
		}
		closeCache(t, c)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != 1<<20 || info.Mode().Perm() != 0o600 {
		t.Errorf("made %v, %v", info, err)
	}
}

func TestWhatCannotBeACacheIsAnErrorThatSaysWhy(t *testing.T) {
	dir := t.TempDir()
	file := fileWith(t, 16, 3)
	least := sizeFor(MinSlots)
	for _, c := range []struct {
		name     string
		path     string
		size     int64
		slotSize int
		want     []string
	}{
		{"another size", file, 1 << 20, 4096, []string{file, fmt.Sprint(sizeFor(16)), "1048576"}},
		{"too small to make", filepath.Join(dir, "new"), least - 1, 4096, []string{fmt.Sprint(least - 1), fmt.Sprint(least)}},
		{"too small for these slots", file, 0, 1 << 20, []string{"too few", fmt.Sprint(8192 + 8<<20)}},
		{"negative size", filepath.Join(dir, "new"), -1, 4096, []string{"too few"}},
		{"too many slots", filepath.Join(dir, "new"), 1 << 60, 4096, []string{"too many"}},
		{"bad slot size", file, 0, 5000, []string{"5000", "multiple of 4096"}},
		{"directory", dir, 0, 4096, []string{dir, "neither a file nor a block device"}},
		{"character device", "/dev/zero", 0, 4096, []string{"/dev/zero", "neither a file nor a block device"}},
		{"missing directory", filepath.Join(dir, "no/cache"), 1 << 20, 4096, []string{"no such file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Open(c.path, c.size, c.slotSize, nil)
			if err == nil {
				got.Close()
				t.Fatal("opened")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
				t.Error("a file was made")
			}
		})
	}
	cache := mustOpen(t, file, nil)
	defer closeCache(t, cache)
	if n := readable(t, cache, 0, 3); n != 3 {
		t.Errorf("%d of 3 blocks are left in the file that was refused", n)
	}
}

func TestAForeignFileIsLeftAlone(t *testing.T) {
	const size = 16 << 20
	for _, c := range []struct {
		name string
		off  int64
		data string
	}{
		{"text", 0, "dear diary"},
		{"a filesystem that begins 1 KiB in", 1024 + 56, "\x53\xef"},
		{"an ISO image", 32<<10 + 1, "CD001"},
		{"a filesystem that begins 64 KiB in", 64<<10 + 64, "_BHRfS_M"},
		{"data in the middle", size / 1000 * 500, "x"},
		{"a last byte", size - 1, "x"},
		{"a magic number with a flipped bit", 0, "DNBDCACI"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			was := make([]byte, size)
			copy(was[c.off:], c.data)
			if err := os.WriteFile(path, was, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, asked := range []int64{0, size} {
				got, err := Open(path, asked, MinSlotSize, nil)
				if err == nil {
					got.Close()
				}
				if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), path) {
					t.Errorf("Open with size %d: %v", asked, err)
				}
			}
			if _, err := Info(path); !errors.Is(err, ErrForeign) {
				t.Errorf("Info: %v", err)
			}
			if _, err := Check(t.Context(), path, nil); !errors.Is(err, ErrForeign) {
				t.Errorf("Check: %v", err)
			}
			is, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(is, was) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

func TestACacheThatCannotBeUsedAsItIsIsFormattedAnew(t *testing.T) {
	size := sizeFor(16)
	cut := func(n int64) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.Truncate(path, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	flipped := func(off int64) func(*testing.T, string) {
		return func(t *testing.T, path string) { flip(t, path, off) }
	}
	for _, c := range []struct {
		name  string
		spoil func(*testing.T, string)
		why   string
	}{
		{"version", flipped(headVersion), "another version"},
		{"slot size", flipped(headSlotSize + 1), "checksum"},
		{"slots", flipped(headSlots), "checksum"},
		{"table offset", flipped(headTable), "checksum"},
		{"data offset", flipped(headData), "checksum"},
		{"file size", flipped(headFileSize), "checksum"},
		{"id", flipped(headID), "checksum"},
		{"reserved", flipped(headReserved), "checksum"},
		{"last reserved", flipped(headCRC - 1), "checksum"},
		{"checksum", flipped(headCRC), "checksum"},
		{"truncated by a byte", cut(size - 1), "made for"},
		{"truncated by a slot", cut(size - MinSlotSize), "made for"},
		{"truncated within a slot", cut(size - 2*MinSlotSize - 5), "made for"},
		{"truncated to the least", cut(sizeFor(MinSlots)), "made for"},
		{"grown by a byte", cut(size + 1), "made for"},
		{"grown by a slot", cut(size + MinSlotSize), "made for"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := fileWith(t, 16, 16)
			c.spoil(t, path)
			var log lines
			cache := mustOpen(t, path, log.log())
			if log.count() != 1 || !strings.Contains(log.String(), c.why) || !strings.Contains(log.String(), path) {
				t.Errorf("want one line that says %q, got:\n%s", c.why, &log)
			}
			if st := cache.Stats(); st.Used != 0 || readable(t, cache, 0, 16) != 0 {
				t.Errorf("entries are left: %+v", st)
			}
			for i := 100; i < 108; i++ {
				put(cache, i, false)
			}
			closeCache(t, cache)

			log.Reset()
			cache = mustOpen(t, path, log.log())
			defer closeCache(t, cache)
			if n := readable(t, cache, 0, 120); n != 8 || log.count() != 1 || !strings.Contains(log.String(), "damaged_records=0") {
				t.Errorf("after the restart %d of 8 blocks are there; log:\n%s", n, &log)
			}
		})
	}
}

func TestAnotherSlotSizeEmptiesTheCache(t *testing.T) {
	path := fileWith(t, 64, 64)
	var log lines
	c, err := Open(path, 0, 2*MinSlotSize, log.log())
	if err != nil {
		t.Fatal(err)
	}
	defer closeCache(t, c)
	if st := c.Stats(); st.Used != 0 || st.SlotSize != 2*MinSlotSize || log.count() != 1 {
		t.Errorf("stats %+v, log:\n%s", st, &log)
	}
}

// TestTruncationNeverGivesWrongBytes cuts the file at every place where something begins or ends.
func TestTruncationNeverGivesWrongBytes(t *testing.T) {
	const slots = 16
	data := dataOffset(slots)
	offs := []int64{
		0, 1, 7, 8, 9, 63, headCRC, headerSize - 1, headerSize, headerSize + 1, headerSize + recordSize - 1,
		headerSize + recordSize, headerSize + slots*recordSize, data - 1, data, data + 1,
	}
	for i := range int64(slots) {
		offs = append(offs, data+i*MinSlotSize+100, data+(i+1)*MinSlotSize-1, data+(i+1)*MinSlotSize)
	}
	for _, off := range offs {
		path := fileWith(t, slots, slots)
		if err := os.Truncate(path, off); err != nil {
			t.Fatal(err)
		}
		if _, err := Info(path); err == nil && off != sizeFor(slots) {
			t.Errorf("cut at %d: Info finds nothing wrong", off)
		}
		c, err := Open(path, 0, MinSlotSize, nil)
		if (err == nil) != (off >= sizeFor(MinSlots)) {
			t.Errorf("cut at %d: %v", off, err)
		}
		if err != nil {
			continue
		}
		want := 0
		if off == sizeFor(slots) {
			want = slots
		}
		if n := readable(t, c, 0, slots); n != want {
			t.Errorf("cut at %d: %d blocks are left, want %d", off, n, want)
		}
		closeCache(t, c)
	}
}

func TestAFlippedBitInARecordLosesOnlyItsEntry(t *testing.T) {
	for off := range int64(recordSize) {
		path := fileWith(t, 8, 8)
		flip(t, path, headerSize+3*recordSize+off)
		var log lines
		c := mustOpen(t, path, log.log())
		if log.count() != 1 || !strings.Contains(log.String(), "damaged_records=1") {
			t.Errorf("byte %d: log:\n%s", off, &log)
		}
		if st := c.Stats(); st.Recovered != 7 || readable(t, c, 0, 8) != 7 || get(t, c, 3) {
			t.Errorf("byte %d: %+v", off, st)
		}
		put(c, 3, false) // its slot is free
		if st := c.Stats(); st.Used != 8 || st.Replaced != 0 || !get(t, c, 3) {
			t.Errorf("byte %d: after putting it again: %+v", off, st)
		}
		closeCache(t, c)
	}
}

func TestAFlippedBitInASlotIsAMissAndALogLine(t *testing.T) {
	for _, part := range []bool{false, true} {
		path := fileWith(t, 8, 8)
		flip(t, path, dataOffset(8)+5*MinSlotSize+2000)
		var log lines
		c := mustOpen(t, path, log.log())
		log.Reset()
		if part { // a read beside the damage must fail too: the hash is that of the whole
			key, _ := block(5, MinSlotSize)
			if !c.Has(key) || c.Get(key, make([]byte, 10), 0) {
				t.Error("a part of a damaged entry was read")
			}
		}
		if n := readable(t, c, 0, 8); n != 7 {
			t.Errorf("%d blocks can be read, want 7", n)
		}
		if st := c.Stats(); st.Bad != 1 || st.Used != 7 || st.Hits != 7 || log.count() != 1 {
			t.Errorf("stats %+v, log:\n%s", st, &log)
		}
		closeCache(t, c)

		c = mustOpen(t, path, nil)
		if st := c.Stats(); st.Recovered != 7 {
			t.Errorf("the damaged entry is back after a restart: %+v", st)
		}
		put(c, 5, false)
		if n := readable(t, c, 0, 8); n != 8 || c.Stats().Bad != 0 {
			t.Errorf("after putting it again %d of 8 blocks can be read", n)
		}
		closeCache(t, c)
	}
}

func TestDamagedEntriesAreDroppedOnceWhileManyRead(t *testing.T) {
	const n, slots = 16, 24 // a slot may still be pinned by those who found it bad: there is room for all blocks elsewhere
	for range 20 {
		path := fileWith(t, slots, n)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := int64(0); i < n; i += 2 {
			b[dataOffset(slots)+i*MinSlotSize+i] ^= 1
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c := mustOpen(t, path, nil)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for i := range 2 * n {
					if !get(t, c, i%n) {
						put(c, i%n, false)
					}
				}
			})
		}
		wg.Wait()
		if st := c.Stats(); st.Bad != n/2 || st.Used != n || st.Replaced != 0 {
			t.Errorf("%+v", st)
		}
		checkInvariants(t, c)
		closeCache(t, c)
		c = mustOpen(t, path, nil)
		if left := readable(t, c, 0, n); left != n {
			t.Errorf("after a restart %d of %d blocks are left", left, n)
		}
		closeCache(t, c)
	}
}

func TestOnlySoManyDamagedEntriesAreLogged(t *testing.T) {
	path := fileWith(t, 30, 30)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[dataOffset(30):])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	var log lines
	c := mustOpen(t, path, log.log())
	defer closeCache(t, c)
	log.Reset()
	if n := readable(t, c, 0, 30); n != 0 || c.Stats().Bad != 30 || log.count() != maxDamageLogged {
		t.Errorf("%d blocks, %+v, log:\n%s", n, c.Stats(), &log)
	}
}

func TestAPartIsReadOfAnEntryThatWasCheckedWhole(t *testing.T) {
	path := fileWith(t, 8, 1)
	c := mustOpen(t, path, nil)
	defer closeCache(t, c)
	key, data := block(0, MinSlotSize)
	for range 2 { // checked at the first
		p := make([]byte, 100)
		if !c.Get(key, p, 300) || !bytes.Equal(p, data[300:400]) {
			t.Error("the part cannot be read or is wrong")
		}
	}
}

func TestAFileCutWhileItIsOpenMisses(t *testing.T) {
	path := fileWith(t, 16, 8)
	c := mustOpen(t, path, nil)
	defer closeCache(t, c)
	for i := 8; i < 16; i++ { // trusted: put in this run
		put(c, i, false)
	}
	if err := os.Truncate(path, dataOffset(16)+4*MinSlotSize+10); err != nil {
		t.Fatal(err)
	}
	if n := readable(t, c, 0, 16); n != 4 || c.Stats().Bad != 12 {
		t.Errorf("%d of the 4 whole blocks can be read, %+v", n, c.Stats())
	}
}

func TestRecordsOfAnEarlierFormattingAreNotTaken(t *testing.T) {
	path := fileWith(t, 8, 8)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, headerSize)
	h := header{slotSize: MinSlotSize, slots: 8, fileSize: sizeFor(8), id: [16]byte{1, 2, 3}}
	h.encode(page)
	if _, err := f.WriteAt(page, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	c := mustOpen(t, path, nil)
	defer closeCache(t, c)
	if st := c.Stats(); st.Used != 0 {
		t.Errorf("%+v", st)
	}
}

func TestOfTwoSlotsWithOneKeyTheLaterWins(t *testing.T) {
	for _, later := range []uint32{2, 6} {
		path := fileWith(t, 8, 0)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		h, err := readHeader(f, sizeFor(8))
		if err != nil {
			t.Fatal(err)
		}
		st := newFileStore(f, h)
		key, data := block(1, MinSlotSize)
		for _, slot := range []uint32{2, 6} {
			r := record{key: key, length: uint32(len(data)), reads: 1, seq: 5}
			if slot == later {
				r.seq = 9
				err = errors.Join(err, st.write(slot, data))
			}
			err = errors.Join(err, st.note(slot, r))
		}
		if err := errors.Join(err, st.close()); err != nil {
			t.Fatal(err)
		}
		c := mustOpen(t, path, nil)
		if c.Stats().Used != 1 || !get(t, c, 1) {
			t.Errorf("the later in slot %d is lost: %+v", later, c.Stats())
		}
		checkInvariants(t, c)
		closeCache(t, c)
	}
}

func TestASecondOpenerIsToldWhoHasTheFile(t *testing.T) {
	path := fileWith(t, 8, 3)
	c := mustOpen(t, path, nil)
	who := "another process" // where the system does not tell
	if st := c.store.(*fileStore); flock.Holder(st.f) != 0 {
		who = fmt.Sprintf("process %d", os.Getpid())
	}
	for _, size := range []int64{0, sizeFor(8)} {
		if _, err := Open(path, size, MinSlotSize, nil); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), who) {
			t.Errorf("second Open: %v, want in use by %s", err, who)
		}
	}
	if _, err := Check(t.Context(), path, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("Check of a file in use: %v", err)
	}
	if n := readable(t, c, 0, 3); n != 3 {
		t.Error("the first opener lost its entries")
	}
	closeCache(t, c)
	closeCache(t, mustOpen(t, path, nil))
}
