package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestWhatAnExportOffersIsWhatItsDeviceCanDo(t *testing.T) {
	const always = exportHasFlags
	const readOnly = always | exportReadOnly | exportFlush | exportMultiConn
	type flushing struct {
		plain
		Flusher
	}
	d := newDisk(page)
	for _, c := range []struct {
		name   string
		export Export
		want   uint16
	}{
		{"only reading", Export{Device: pattern(1)}, readOnly},
		{"writing", Export{Device: plain{d}}, always | exportFUA},
		{"flushing covers all connections", Export{Device: flushing{plain{d}, d}}, always | exportFUA | exportFlush | exportMultiConn},
		{"everything", Export{Device: d}, always | exportFUA | exportFlush | exportMultiConn | exportTrim | exportWriteZeroes |
			exportFastZero | exportCache},
		{"everything, but read-only", Export{Device: d, ReadOnly: true}, readOnly | exportCache},
		{"seeking", Export{Device: pattern(1), Rotational: true}, readOnly | exportRotational},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := dial(t, serve(t, ServerConfig{Exports: []Export{c.export}}, listen(t, "unix")).addr).greet(flagFixedNewstyle)
			info := n.option(optInfo, infoData(""))[0].data
			if got := uint16(info[10])<<8 | uint16(info[11]); got != c.want {
				t.Errorf("flags 0x%x, want 0x%x", got, c.want)
			}
		})
	}
}

func TestWritesReachTheDeviceAsTheClientMeansThem(t *testing.T) {
	for _, style := range styles {
		d := newDisk(100_000)
		n := device(t, d, style)
		for _, c := range []struct {
			name           string
			flags, command uint16
			offset, length uint64
			errno          uint32
			call           string // the last that the device got
		}{
			{"a write", 0, cmdWrite, 10, 100, 0, "write 100 at 10 fua false"},
			{"a write with FUA", cmdFlagFUA, cmdWrite, 99_999, 1, 0, "write 1 at 99999 fua true"},
			{"a write of nothing", 0, cmdWrite, 10, 0, 0, ""},
			{"a write past the end", 0, cmdWrite, 99_999, 2, errNoSpace, ""},
			{"a write with a flag of reads", cmdFlagDF, cmdWrite, 0, 5, errInvalid, ""},
			{"a flush", 0, cmdFlush, 0, 0, 0, "flush"},
			{"a flush with FUA", cmdFlagFUA, cmdFlush, 0, 0, 0, "flush"},
			{"a flush of something", 0, cmdFlush, 0, 5, errInvalid, ""},
			{"a trim", 0, cmdTrim, 0, 100_000, 0, "trim 100000 at 0 fua false"},
			{"a trim with FUA", cmdFlagFUA, cmdTrim, 5, 6, 0, "trim 6 at 5 fua true"},
			{"a trim past the end", 0, cmdTrim, 1, 100_000, errInvalid, ""},
			{"a trim of nothing", 0, cmdTrim, 1, 0, 0, ""},
			{"zeroes", 0, cmdWriteZeroes, 1, 2, 0, "zero 2 at 1 hole true fast false fua false"},
			{"zeroes without a hole", cmdFlagNoHole, cmdWriteZeroes, 1, 2, 0, "zero 2 at 1 hole false fast false fua false"},
			{"zeroes, fast", cmdFlagFastZero | cmdFlagFUA, cmdWriteZeroes, 4096, 2, 0, "zero 2 at 4096 hole true fast true fua true"},
			{"zeroes that cannot be fast", cmdFlagFastZero, cmdWriteZeroes, 1, 2, errNotSup, "zero 2 at 1 hole true fast true fua false"},
			{"zeroes past the end", 0, cmdWriteZeroes, 100_000, 1, errNoSpace, ""},
			{"a cache request", 0, cmdCache, 7, 8, 0, "prefetch 8 at 7"},
			{"a cache request with a flag", cmdFlagNoHole, cmdCache, 7, 8, errInvalid, ""},
			{"a cache request past the end", 0, cmdCache, 99_999, 2, errInvalid, ""},
			{"a read with FUA", cmdFlagFUA, cmdRead, 0, 5, 0, ""},
		} {
			d.forget()
			if a := n.request(c.flags, c.command, c.offset, c.length); a.errno != c.errno {
				t.Errorf("style %d, %s: error %d (%s), want %d", style, c.name, a.errno, a.text, c.errno)
			}
			if got := d.last(); got != c.call {
				t.Errorf("style %d, %s: the device got %q, want %q", style, c.name, got, c.call)
			}
		}
		n.put(4000, "some text")
		if got := n.get(3999, 11); got != "\x00some text\x00" {
			t.Errorf("style %d: read back %q", style, got)
		}
	}
}

func TestWhatADeviceCannotDoIsRefused(t *testing.T) {
	for _, style := range styles {
		d := newDisk(page)
		n := device(t, plain{d}, style)
		for _, command := range []uint16{cmdFlush, cmdTrim, cmdWriteZeroes, cmdCache, cmdBlockStatus} {
			length := uint64(512)
			if command == cmdFlush {
				length = 0
			}
			if a := n.request(0, command, 0, length); a.errno != errInvalid {
				t.Errorf("style %d: command %d: %+v", style, command, a)
			}
		}
		if n.put(0, "x"); n.get(0, 1) != "x" {
			t.Errorf("style %d: what it can do fails", style)
		}
	}
}

func TestAReadOnlyExportOfAWritableDeviceIsNotWritten(t *testing.T) {
	d := newDisk(page)
	s := serve(t, ServerConfig{Exports: []Export{{Device: d, ReadOnly: true}}}, listen(t, "unix"))
	n := dial(t, s.addr).chosen(styleStructured)
	for _, command := range []uint16{cmdWrite, cmdTrim, cmdWriteZeroes} {
		if a := n.request(0, command, 0, 512); a.errno != errPerm {
			t.Errorf("command %d: %+v", command, a)
		}
	}
	if a := n.request(0, cmdFlush, 0, 0); a.errno != 0 || d.last() != "" {
		t.Errorf("flush: %+v; the device got %q", a, d.last())
	}
}

// failing is a disk whose changes fail.
type failing struct {
	*disk
	err error
}

func (f failing) WriteAt(context.Context, []byte, int64, bool) error                { return f.err }
func (f failing) Flush(context.Context) error                                       { return f.err }
func (f failing) WriteZeroes(context.Context, int64, int64, bool, bool, bool) error { return f.err }

func TestAFullDeviceFailsTheWriterAlone(t *testing.T) {
	for _, style := range styles {
		n := device(t, failing{newDisk(page), &errnoText{syscall.ENOSPC}}, style)
		for _, command := range []uint16{cmdWrite, cmdWriteZeroes} {
			if a := n.request(0, command, 0, 512); a.errno != errNoSpace {
				t.Errorf("style %d: command %d: %+v", style, command, a)
			}
		}
		if a := n.request(0, cmdFlush, 0, 0); a.errno != errNoSpace {
			t.Errorf("style %d: flush: %+v", style, a)
		}
		if a := n.request(0, cmdRead, 0, 512); a.errno != 0 {
			t.Errorf("style %d: read: %+v", style, a)
		}
	}
}

// errnoText is an error around a number.
type errnoText struct{ errno syscall.Errno }

func (e *errnoText) Error() string { return "store: " + e.errno.Error() }
func (e *errnoText) Unwrap() error { return e.errno }

func TestZeroesAreNeverAnsweredENOTSUPUnlessTheyWereToBeFast(t *testing.T) {
	n := device(t, failing{newDisk(page), errors.ErrUnsupported}, styleSimple)
	if a := n.request(0, cmdWriteZeroes, 0, 512); a.errno != errIO {
		t.Errorf("slow: %+v", a)
	}
	if a := n.request(cmdFlagFastZero, cmdWriteZeroes, 0, 512); a.errno != errNotSup {
		t.Errorf("fast: %+v", a)
	}
}

func TestReadsOfZeroesComeAsHolesUnlessTheyMustNot(t *testing.T) {
	d := newDisk(100_000)
	d.b[70_000] = 1
	for _, c := range []struct {
		style          replyStyle
		flags          uint16
		offset, length uint64
		hole           bool
	}{
		{styleSimple, 0, 0, 5000, false},
		{styleStructured, 0, 0, 5000, true},
		{styleStructured, 0, 0, 1, true},
		{styleStructured, cmdFlagDF, 0, 5000, false},
		{styleStructured, 0, 69_000, 1001, false},
		{styleStructured, 0, 70_000, 1, false},
		{styleExtended, 0, 70_001, 29_999, true},
		{styleExtended, 0, 70_000, 30_000, false},
	} {
		a := device(t, d, c.style).request(c.flags, cmdRead, c.offset, c.length)
		if want := d.b[c.offset : c.offset+c.length]; a.hole != c.hole || string(a.data) != string(want) || c.style == styleStructured && a.offset != c.offset {
			t.Errorf("%+v: hole %v, error %d, %d bytes", c, a.hole, a.errno, len(a.data))
		}
	}
}

func TestDataThatComesSlowlyHoldsNoReplyUp(t *testing.T) {
	for _, style := range []replyStyle{styleSimple, styleExtended} {
		gate := make(chan struct{})
		entered := make(chan struct{})
		d := newDisk(1 << 20)
		n := device(t, gated{d, entered, gate}, style)
		header := requestBytes(0, cmdRead, 1, 0, 16)
		data := requestBytes(0, cmdWrite, 2, 0, 1000)
		if style == styleExtended {
			header, data = extendedBytes(0, cmdRead, 1, 0, 16), extendedBytes(cmdFlagPayloadLen, cmdWrite, 2, 0, 1000)
		}
		n.write(header)
		<-entered
		n.write(append(data, "part"...))
		close(gate)
		n.answer(1, 16)
		n.write(make([]byte, 996))
		n.answer(2, 0)
	}
}

// gated is a disk whose first read waits.
type gated struct {
	*disk
	entered, gate chan struct{}
}

func (g gated) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off == 0 {
		close(g.entered)
		<-g.gate
	}
	return g.disk.ReadAt(ctx, p, off)
}

func TestAWriteThatDoesNotArriveInFullIsNotDone(t *testing.T) {
	d := newDisk(1 << 20)
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}}, listen(t, "unix"))
	n := dial(t, s.addr).chosen(styleSimple)
	n.write(append(requestBytes(0, cmdWrite, 1, 0, 1000), make([]byte, 999)...))
	n.conn.Close()
	s.stop()
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	s.done <- nil
	if got := d.last(); got != "" {
		t.Errorf("the device got %q", got)
	}
}

func TestWritesWaitForRoomBeforeTheyAreRead(t *testing.T) {
	gate := make(chan struct{})
	var mu sync.Mutex
	under, most := 0, 0
	d := blocking{newDisk(64 << 20), func() {
		mu.Lock()
		under++
		most = max(most, under)
		mu.Unlock()
		<-gate
		mu.Lock()
		under--
		mu.Unlock()
	}}
	n := device(t, d, styleSimple)
	const writes, size = 64, 1 << 20
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range uint64(writes) {
			if _, err := n.conn.Write(append(requestBytes(0, cmdWrite, i, i*size, size), make([]byte, size)...)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		for range writes { // as many as there is room for are let go at once
			gate <- struct{}{}
		}
	})
	for range writes {
		if a, err := readAnswer(n.conn, func(uint64) uint32 { return 0 }); err != nil || a.errno != 0 {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	wg.Wait()
	if most > maxBytes/size {
		t.Errorf("%d writes of 1 MiB were under way, more than %d bytes", most, maxBytes)
	}
}

// blocking is a disk that calls a function before each write.
type blocking struct {
	*disk
	before func()
}

func (b blocking) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	b.before()
	return b.disk.WriteAt(ctx, p, off, fua)
}

func TestALeaderThatIsStuckIsReplaced(t *testing.T) {
	a := newAuthority(t)
	for _, length := range []uint32{512, 4 * inlineBytes} { // large reads are the leader's over TLS
		gate := make(chan struct{})
		d := readFunc(func(_ context.Context, _ []byte, off int64) error {
			if off == 512<<10 {
				<-gate
			}
			return nil
		})
		s := serve(t, ServerConfig{Exports: []Export{{Device: d}}, TLSMode: TLSRequired, TLS: a.server()}, listen(t, "tcp"))
		n := dial(t, s.addr).greet(flagFixedNewstyle).secured(a.client()).enter("")
		for range 10 * quickRun { // the device counts as quick
			n.request(0, cmdRead, 0, uint64(length))
		}
		n.write(requestBytes(0, cmdRead, 1, 512<<10, length))
		for i := range uint64(10 * quickRun) {
			n.write(requestBytes(0, cmdRead, 2+i, 0, length))
			n.answer(2+i, length)
		}
		n.write(requestBytes(0, cmdRead, 3, 512<<10, length)) // a second time, perhaps of another leader
		n.write(requestBytes(0, cmdRead, 4, 0, length))
		n.answer(4, length)
		close(gate)
		for range 2 {
			if a, err := readAnswer(n.conn, func(uint64) uint32 { return length }); err != nil || a.cookie != 1 && a.cookie != 3 {
				t.Fatalf("%+v, %v", a, err)
			}
		}
	}
}

func TestALeaderThatIsStuckInALargeWriteIsReplaced(t *testing.T) {
	const quick, length = 10 * quickRun, 4 * inlineBytes
	gate := make(chan struct{})
	var writes atomic.Int32
	n := device(t, blocking{newDisk(1 << 20), func() {
		if writes.Add(1) > quick {
			<-gate
		}
	}}, styleSimple)
	data := strings.Repeat("large ", length/6)
	for range quick {
		n.put(0, data)
	}
	n.write(append(requestBytes(0, cmdWrite, 1, 5, uint32(len(data))), data...))
	if got := n.get(0, 5); got != "large" {
		t.Errorf("got %q", got)
	}
	close(gate)
	n.answer(1, 0)
	if got := n.get(0, 10); got != "largelarge" {
		t.Errorf("got %q", got)
	}
}

func TestALeaderThatCannotWriteIsReplaced(t *testing.T) {
	written := make(chan struct{})
	s := serve(t, ServerConfig{Exports: []Export{{Device: blocking{newDisk(1 << 20), func() { close(written) }}}}}, listen(t, "unix"))
	n := dial(t, s.addr).chosen(styleSimple)
	for range 2 * quickRun {
		n.request(0, cmdRead, 0, 512)
	}
	// More replies than the socket holds, then a write: it is read although nobody takes the replies.
	for range maxRequests - 1 {
		n.write(requestBytes(0, cmdRead, 1, 0, inlineBytes))
	}
	n.write(append(requestBytes(0, cmdWrite, 2, 0, 5), "hello"...))
	<-written
	for range maxRequests {
		a, err := readAnswer(n.conn, func(cookie uint64) uint32 { return map[uint64]uint32{1: inlineBytes}[cookie] })
		if err != nil || a.errno != 0 {
			t.Fatalf("%+v, %v", a, err)
		}
	}
}

func TestALargeWriteIsWritten(t *testing.T) {
	for _, c := range []struct {
		size  int
		style replyStyle
	}{{32 << 20, styleSimple}, {maxPayload, styleStructured}, {maxPayload, styleExtended}} {
		d := newDisk(c.size + 1)
		n := device(t, d, c.style)
		data := strings.Repeat("0123456789abcdef", c.size/16)
		n.put(1, data)
		if d.text(1, c.size) != data {
			t.Errorf("%d bytes, style %d: other bytes are there", c.size, c.style)
		}
	}
}

func TestAnOversizeWriteFailsAlone(t *testing.T) {
	for _, style := range styles {
		n := device(t, newDisk(maxPayload+1), style)
		if a := n.request(0, cmdWrite, 0, maxPayload+1); a.errno != errInvalid {
			t.Errorf("style %d: %+v", style, a)
		}
		n.put(0, "and on")
	}
}

func TestAnAbsurdlyLongWriteIsHungUpOn(t *testing.T) {
	n := device(t, newDisk(page), styleSimple)
	n.write(requestBytes(0, cmdWrite, 1, 0, maxDiscard+1))
	n.closed()
	n = device(t, newDisk(page), styleExtended)
	n.write(extendedBytes(cmdFlagPayloadLen, cmdTrim, 1, 0, 1<<63))
	n.closed()
}

func TestExtendedRequestsReachBeyond32Bits(t *testing.T) {
	d := &huge{}
	n := device(t, d, styleExtended)
	for _, c := range []struct {
		command uint16
		call    string
	}{
		{cmdTrim, fmt.Sprintf("trim %d at %d", int64(5<<40), int64(1<<40))},
		{cmdWriteZeroes, fmt.Sprintf("zero %d at %d", int64(5<<40), int64(1<<40))},
	} {
		if a := n.request(0, c.command, 1<<40, 5<<40); a.errno != 0 || d.last() != c.call {
			t.Errorf("command %d: %+v; the device got %q, want %q", c.command, a, d.last(), c.call)
		}
	}
	if a := n.request(0, cmdRead, 0, 5<<40); a.errno != errOverflow {
		t.Errorf("READ: %+v", a)
	}
	if a := n.request(0, cmdTrim, 0, 1<<63); a.errno != errInvalid {
		t.Errorf("TRIM past the end: %+v", a)
	}
}

// huge is a device of 16 TiB that remembers its last change.
type huge struct {
	pattern
	mu   sync.Mutex
	call string
}

func (h *huge) last() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.call
}

func (h *huge) Size() int64                                        { return 16 << 40 }
func (h *huge) WriteAt(context.Context, []byte, int64, bool) error { return nil }

func (h *huge) Trim(_ context.Context, off, n int64, _ bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.call = fmt.Sprintf("trim %d at %d", n, off)
	return nil
}

func (h *huge) WriteZeroes(_ context.Context, off, n int64, _, _, _ bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.call = fmt.Sprintf("zero %d at %d", n, off)
	return nil
}

func TestDataWhereNoneBelongsIsSkipped(t *testing.T) {
	n := device(t, newDisk(page), styleExtended)
	for _, c := range []struct {
		name           string
		flags, command uint16
		length         uint64
		data           string
	}{
		{"a read with data", cmdFlagPayloadLen, cmdRead, 5, "12345"},
		{"a trim with data", cmdFlagPayloadLen, cmdTrim, 5, "12345"},
		{"a flush with data", cmdFlagPayloadLen, cmdFlush, 5, "12345"},
		{"an unknown command with data", cmdFlagPayloadLen, 99, 5, "12345"},
		{"a block status where no context was selected", cmdFlagPayloadLen, cmdBlockStatus, 12, "123456789012"},
		{"a write without data", 0, cmdWrite, 5, ""},
	} {
		n.write(append(extendedBytes(c.flags, c.command, 1, 0, c.length), c.data...))
		if a := n.answer(1, 0); a.errno != errInvalid {
			t.Errorf("%s: %+v", c.name, a)
		}
	}
	n = device(t, newDisk(page), styleStructured)
	n.write(append(requestBytes(cmdFlagPayloadLen, cmdWrite, 1, 0, 5), "12345"...))
	if a := n.answer(1, 0); a.errno != errInvalid {
		t.Errorf("a flag of extended headers: %+v", a)
	}
	n.put(0, "and on")
}

func TestTwoHundredConnectionsAtOnce(t *testing.T) {
	const conns, depth = 200, 16
	d := newDisk(conns * page)
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}}, listen(t, "unix"))
	var wg sync.WaitGroup
	for i := range uint64(conns) {
		n := dial(t, s.addr).chosen(styles[i%3])
		wg.Go(func() {
			want := strings.Repeat(string(rune('a'+i%26)), page/depth)
			var sent []byte
			for j := range uint64(depth) {
				if n.style == styleExtended {
					sent = append(sent, extendedBytes(cmdFlagPayloadLen, cmdWrite, j+1, i*page+j*page/depth, page/depth)...)
				} else {
					sent = append(sent, requestBytes(0, cmdWrite, j+1, i*page+j*page/depth, page/depth)...)
				}
				sent = append(sent, want...)
			}
			if _, err := n.conn.Write(sent); err != nil {
				t.Error(err)
				return
			}
			for range depth {
				if a, err := readAnswer(n.conn, func(uint64) uint32 { return 0 }); err != nil || a.errno != 0 {
					t.Errorf("write of connection %d: %+v, %v", i, a, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range conns {
		if got, want := d.text(i*page, page), strings.Repeat(string(rune('a'+i%26)), page); got != want {
			t.Fatalf("what connection %d wrote is not there", i)
		}
	}
	if got := s.Stats(); got.Connections != conns || got.Written != conns*page || got.Failed != 0 {
		t.Errorf("Stats = %+v", got)
	}
}

func TestServeReturnsNilWhenItsContextEnds(t *testing.T) {
	s := serve(t, ServerConfig{Exports: twoExports()}, listen(t, "tcp"))
	n := dial(t, s.addr).chosen(styleSimple)
	s.stop()
	if _, err := io.ReadAll(n.conn); err != nil {
		t.Errorf("the client was cut off: %v", err)
	}
	select {
	case err := <-s.done:
		if err != nil {
			t.Error(err)
		}
		s.done <- nil
	case <-time.After(time.Minute):
		t.Error("Serve does not return")
	}
}
