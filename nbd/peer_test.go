package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// client speaks the client's side of the protocol byte by byte, so that tests can also speak it wrongly.
type client struct {
	t     testing.TB
	conn  net.Conn
	style replyStyle // negotiated by chosen
}

// styles are all ways to talk to a server.
var styles = []replyStyle{styleSimple, styleStructured, styleExtended}

// pattern is a device in which every byte tells its offset, without holding any.
type pattern int64

func (d pattern) Size() int64 { return int64(d) }

// ReadAt is not watched for races, which takes a minute for all tests together.
//
//go:norace
func (d pattern) ReadAt(_ context.Context, p []byte, off int64) error {
	for i := range p {
		p[i] = patternByte(off + int64(i))
	}
	return nil
}

//go:norace
func patternByte(off int64) byte { return byte(off*7 + off>>8*13 + off>>16) }

// patternBytes are n of the device's bytes at off.
func patternBytes(off int64, n int) []byte {
	p := make([]byte, n)
	_ = pattern(0).ReadAt(context.Background(), p, off)
	return p
}

// readFunc is a device of 1 MiB whose reads are the function.
type readFunc func(ctx context.Context, p []byte, off int64) error

func (f readFunc) Size() int64 { return 1 << 20 }

func (f readFunc) ReadAt(ctx context.Context, p []byte, off int64) error { return f(ctx, p, off) }

// pipeListener hands out the server's ends of pipes in memory.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (l *pipeListener) dial(t testing.TB) *client {
	ours, theirs := net.Pipe()
	l.conns <- theirs
	t.Cleanup(func() { ours.Close() })
	return &client{t: t, conn: ours}
}

// served is a server that runs until its test ends, or stop is called.
type served struct {
	*Server
	addr net.Addr
	stop context.CancelFunc
	done chan error // what Serve returned
}

// serve runs a server on a listener until the test ends, when it must end too.
func serve(t testing.TB, config ServerConfig, l net.Listener) *served {
	t.Helper()
	s, err := NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &served{Server: s, addr: l.Addr(), stop: cancel, done: make(chan error, 1)}
	go func() { r.done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		r.done <- nil
	})
	return r
}

// listen opens a listening socket: network is unix or tcp.
func listen(t testing.TB, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = t.TempDir() + "/s"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// dial connects to a server on a real socket.
func dial(t testing.TB, addr net.Addr) *client {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn}
}

// device serves one device on a TCP socket and returns a client that has chosen it.
func device(t testing.TB, d Device, style replyStyle) *client {
	t.Helper()
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}, Grace: time.Second}, listen(t, "tcp"))
	return dial(t, s.addr).chosen(style)
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("client: write: %v", err)
	}
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		c.t.Fatalf("client: read %d bytes: %v", n, err)
	}
	return b
}

// closed fails the test unless the server hangs up now without another word.
func (c *client) closed() {
	c.t.Helper()
	b, err := io.ReadAll(c.conn)
	var reset *net.OpError
	if len(b) > 0 || err != nil && !errors.As(err, &reset) {
		c.t.Errorf("the server sent %q (%v), want that it hangs up", b, err)
	}
}

// greet exchanges flags.
func (c *client) greet(flags uint32) *client {
	c.t.Helper()
	hello := c.read(18)
	want := "NBDMAGICIHAVEOPT\x00\x03"
	if string(hello) != want {
		c.t.Fatalf("greeting %q, want %q", hello, want)
	}
	c.write(binary.BigEndian.AppendUint32(nil, flags))
	return c
}

// optionBytes is an option as a client sends it.
func optionBytes(option uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// optReply is one reply to an option.
type optReply struct {
	kind uint32
	data string
}

// option sends an option and returns the replies to it up to the last.
func (c *client) option(option uint32, data []byte) (replies []optReply) {
	c.t.Helper()
	c.write(optionBytes(option, data))
	for {
		h := c.read(20)
		if m, o := binary.BigEndian.Uint64(h), binary.BigEndian.Uint32(h[8:]); m != magicOptReply || o != option {
			c.t.Fatalf("reply with magic 0x%x to option %d, want 0x%x and %d", m, o, uint64(magicOptReply), option)
		}
		r := optReply{kind: binary.BigEndian.Uint32(h[12:])}
		r.data = string(c.read(int(binary.BigEndian.Uint32(h[16:]))))
		replies = append(replies, r)
		if r.kind == repAck || r.kind&repError != 0 {
			return replies
		}
	}
}

// infoData is the data of an INFO or GO.
func infoData(name string, kinds ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(kinds)))
	for _, k := range kinds {
		b = binary.BigEndian.AppendUint16(b, k)
	}
	return b
}

// chosen negotiates up to the transmission phase with the default export.
func (c *client) chosen(style replyStyle) *client {
	c.t.Helper()
	c.greet(flagFixedNewstyle | flagNoZeroes)
	c.agree(style)
	return c.enter("")
}

// agree negotiates how replies look.
func (c *client) agree(style replyStyle) {
	c.t.Helper()
	option := map[replyStyle]uint32{styleStructured: optStructuredReply, styleExtended: optExtendedHeaders}[style]
	if option == 0 {
		return
	}
	if r := c.option(option, nil); r[0].kind != repAck {
		c.t.Fatalf("option %d: %v", option, r)
	}
	c.style = style
}

// enter begins the transmission phase with an export.
func (c *client) enter(name string) *client {
	c.t.Helper()
	if r := c.option(optGo, infoData(name)); r[len(r)-1].kind != repAck {
		c.t.Fatalf("GO: %v", r)
	}
	return c
}

// requestBytes is a request as a client sends it.
func requestBytes(flags, command uint16, cookie, offset uint64, length uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, offset)
	return binary.BigEndian.AppendUint32(b, length)
}

// extendedBytes is a request with an extended header as a client sends it.
func extendedBytes(flags, command uint16, cookie, offset, length uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicExtendedRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, offset)
	return binary.BigEndian.AppendUint64(b, length)
}

// answer is a reply to a request.
type answer struct {
	cookie  uint64
	errno   uint32
	text    string
	offset  uint64 // of the data; not known of simple replies
	data    []byte
	hole    bool // the data is zero, and did not come
	extents map[uint32][]extent
}

// readAnswer reads one reply from r, all chunks of it, whose request asked for as many bytes as expect says of its cookie.
func readAnswer(r io.Reader, expect func(cookie uint64) uint32) (a answer, err error) {
	var magic [4]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return a, err
	}
	if binary.BigEndian.Uint32(magic[:]) != magicSimple {
		for done := false; !done && err == nil; {
			if done, err = a.chunk(r, magic[:]); err == nil && !done {
				_, err = io.ReadFull(r, magic[:])
			}
		}
		return a, err
	}
	var h [12]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return a, err
	}
	a.errno, a.cookie = binary.BigEndian.Uint32(h[:]), binary.BigEndian.Uint64(h[4:])
	if n := expect(a.cookie); a.errno == 0 && n > 0 {
		a.data = make([]byte, n)
		_, err = io.ReadFull(r, a.data)
	}
	return a, err
}

// chunk reads one chunk of a after its magic.
func (a *answer) chunk(r io.Reader, magic []byte) (done bool, err error) {
	extended := false
	h := make([]byte, 16)
	switch binary.BigEndian.Uint32(magic) {
	case magicStructured:
	case magicExtendedReply:
		h, extended = make([]byte, 28), true
	default:
		return false, fmt.Errorf("reply with magic %x", magic)
	}
	if _, err := io.ReadFull(r, h); err != nil {
		return false, err
	}
	flags, kind := binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
	cookie := binary.BigEndian.Uint64(h[4:])
	n := uint64(binary.BigEndian.Uint32(h[12:]))
	if extended {
		a.offset, n = binary.BigEndian.Uint64(h[12:]), binary.BigEndian.Uint64(h[20:])
	}
	switch {
	case flags&^replyFlagDone != 0:
		return false, fmt.Errorf("chunk with flags 0x%x", flags)
	case a.cookie != 0 && a.cookie != cookie:
		return false, fmt.Errorf("chunk of reply %x within that of %x", cookie, a.cookie)
	case n > maxPayload+8:
		return false, fmt.Errorf("chunk of %d bytes", n)
	}
	a.cookie = cookie
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		return false, err
	}
	switch {
	case kind == replyNone && n == 0:
	case kind == replyOffsetData && n > 8:
		a.offset, a.data = binary.BigEndian.Uint64(p), p[8:]
	case kind == replyOffsetHole && n == 12:
		a.hole, a.offset, a.data = true, binary.BigEndian.Uint64(p), make([]byte, binary.BigEndian.Uint32(p[8:]))
	case kind == replyError && n >= 6 && int(binary.BigEndian.Uint16(p[4:])) == len(p)-6:
		a.errno, a.text = binary.BigEndian.Uint32(p), string(p[6:])
	case kind == replyBlockStatus && !extended && n >= 12 && n%8 == 4:
		id, list := binary.BigEndian.Uint32(p), p[4:]
		for ; len(list) > 0; list = list[8:] {
			a.addExtent(id, extent{uint64(binary.BigEndian.Uint32(list)), uint64(binary.BigEndian.Uint32(list[4:]))})
		}
	case kind == replyBlockStatusExt && extended && n >= 24 && n == 8+16*uint64(binary.BigEndian.Uint32(p[4:])):
		id, list := binary.BigEndian.Uint32(p), p[8:]
		for ; len(list) > 0; list = list[16:] {
			a.addExtent(id, extent{binary.BigEndian.Uint64(list), binary.BigEndian.Uint64(list[8:])})
		}
	default:
		return false, fmt.Errorf("chunk of type %d with %d bytes, extended %v", kind, n, extended)
	}
	return flags&replyFlagDone != 0, nil
}

// addExtent notes what the reply says of context id.
func (a *answer) addExtent(id uint32, e extent) {
	if a.extents == nil {
		a.extents = make(map[uint32][]extent)
	}
	a.extents[id] = append(a.extents[id], e)
}

// cookie is that of the requests that are made one at a time.
const cookie = 0x0123456789abcdef

// request sends a request and returns the reply to it, which must be the next. A write writes zeroes.
func (c *client) request(flags, command uint16, offset, length uint64) answer {
	c.t.Helper()
	var data []byte
	if command == cmdWrite {
		data = make([]byte, length)
	}
	return c.requestWith(flags, command, offset, length, data)
}

// requestWith sends a request and its data, and returns the reply to it, which must be the next.
func (c *client) requestWith(flags, command uint16, offset, length uint64, data []byte) answer {
	c.t.Helper()
	if c.style == styleExtended {
		if len(data) > 0 {
			flags |= cmdFlagPayloadLen
		}
		c.write(extendedBytes(flags, command, cookie, offset, length))
	} else {
		c.write(requestBytes(flags, command, cookie, offset, uint32(length)))
	}
	c.write(data)
	want := uint32(0)
	if command == cmdRead {
		want = uint32(length)
	}
	return c.answer(cookie, want)
}

// put writes data at offset and fails the test unless that succeeds.
func (c *client) put(offset uint64, data string) {
	c.t.Helper()
	if a := c.requestWith(0, cmdWrite, offset, uint64(len(data)), []byte(data)); a.errno != 0 {
		c.t.Fatalf("WRITE at %d: %+v", offset, a)
	}
}

// get reads n bytes at offset and fails the test unless that succeeds.
func (c *client) get(offset, n uint64) string {
	c.t.Helper()
	a := c.request(0, cmdRead, offset, n)
	if a.errno != 0 {
		c.t.Fatalf("READ at %d: %+v", offset, a)
	}
	return string(a.data)
}

// answer reads the next reply, which must be to cookie.
func (c *client) answer(cookie uint64, length uint32) answer {
	c.t.Helper()
	a, err := readAnswer(c.conn, func(uint64) uint32 { return length })
	if err != nil {
		c.t.Fatalf("client: read reply: %v", err)
	}
	if a.cookie != cookie {
		c.t.Fatalf("reply to request %x, want to %x", a.cookie, cookie)
	}
	return a
}
