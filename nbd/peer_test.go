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
	t    testing.TB
	conn net.Conn
}

// pattern is a device in which every byte tells its offset, without holding any.
type pattern int64

func (d pattern) Size() int64 { return int64(d) }

func (d pattern) ReadAt(_ context.Context, p []byte, off int64) error {
	for i := range p {
		p[i] = patternByte(off + int64(i))
	}
	return nil
}

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
	return &client{t, ours}
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
	return &client{t, conn}
}

// device serves one device on a TCP socket and returns a client that has chosen it.
func device(t testing.TB, d Device, structured bool) *client {
	t.Helper()
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}, Grace: time.Second}, listen(t, "tcp"))
	return dial(t, s.addr).chosen(structured)
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
func (c *client) chosen(structured bool) *client {
	c.t.Helper()
	c.greet(flagFixedNewstyle | flagNoZeroes)
	if structured {
		c.option(optStructuredReply, nil)
	}
	if r := c.option(optGo, infoData("")); r[len(r)-1].kind != repAck {
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

// answer is a reply to a request. offset is only known of structured ones.
type answer struct {
	cookie uint64
	errno  uint32
	text   string
	offset uint64
	data   []byte
}

// readAnswer reads one reply from r, whose request asked for as many bytes as expect says of its cookie.
func readAnswer(r io.Reader, expect func(cookie uint64) uint32) (a answer, err error) {
	get := func(n uint32) (b []byte) {
		if err != nil || n > 64<<20 {
			return make([]byte, 64)
		}
		b = make([]byte, max(n, 64))
		_, err = io.ReadFull(r, b[:n])
		return b[:max(n, 64)]
	}
	switch magic := binary.BigEndian.Uint32(get(4)); {
	case err != nil:
	case magic == magicSimple:
		h := get(12)
		a.errno, a.cookie = binary.BigEndian.Uint32(h), binary.BigEndian.Uint64(h[4:])
		if n := expect(a.cookie); a.errno == 0 && n > 0 {
			a.data = get(n)[:n]
		}
	case magic == magicStructured:
		h := get(16)
		flags, kind := binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:])
		a.cookie = binary.BigEndian.Uint64(h[4:])
		n := binary.BigEndian.Uint32(h[12:])
		payload := get(n)[:n]
		switch {
		case err != nil:
		case flags != replyFlagDone:
			err = fmt.Errorf("chunk with flags 0x%x", flags)
		case kind == replyNone && n == 0:
		case kind == replyOffsetData && n > 8:
			a.offset, a.data = binary.BigEndian.Uint64(payload), payload[8:]
		case kind == replyError && n >= 6 && int(binary.BigEndian.Uint16(payload[4:])) == len(payload)-6:
			a.errno, a.text = binary.BigEndian.Uint32(payload), string(payload[6:])
		default:
			err = fmt.Errorf("chunk of type %d with %d bytes", kind, n)
		}
	default:
		err = fmt.Errorf("reply with magic 0x%08x", magic)
	}
	return a, err
}

// request sends a request and returns the reply to it, which must be the next.
func (c *client) request(flags, command uint16, offset uint64, length uint32) answer {
	c.t.Helper()
	c.write(requestBytes(flags, command, 0x0123456789abcdef, offset, length))
	if command == cmdWrite {
		c.write(make([]byte, length))
	}
	want := uint32(0)
	if command == cmdRead {
		want = length
	}
	return c.answer(0x0123456789abcdef, want)
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
