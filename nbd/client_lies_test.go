package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// liar speaks a server's side of the protocol byte by byte, so that tests can also speak it wrongly.
type liar struct {
	t     testing.TB
	conn  net.Conn
	form  replyForm
	size  uint64
	flags uint16
}

const (
	liarSize  = 1 << 20
	liarFlags = exportHasFlags | exportFlush | exportFUA | exportTrim | exportWriteZeroes | exportCache | exportFastZero
)

// liars returns a client's end of a connection, and the server's. Both are closed when the test ends.
func liars(t testing.TB, form replyForm) (net.Conn, *liar) {
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, &liar{t, theirs, form, liarSize, liarFlags}
}

// gone ends the server's side when the client has gone, which some tests want it to.
type gone struct{}

func (s *liar) write(b ...[]byte) {
	if _, err := s.conn.Write(bytes.Join(b, nil)); err != nil {
		panic(gone{})
	}
}

func (s *liar) read(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(s.conn, b); err != nil {
		panic(gone{})
	}
	return b
}

// run runs the server's side in the background until it is through or the client has gone. The test waits for it.
func (s *liar) run(script func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() {
			if p := recover(); p != nil && p != (gone{}) {
				panic(p)
			}
		}()
		script()
	})
	s.t.Cleanup(func() {
		s.conn.Close()
		wg.Wait()
	})
}

// hello is the greeting of a fixed newstyle server.
const hello = "NBDMAGICIHAVEOPT\x00\x03"

func (s *liar) greet() {
	s.write([]byte(hello))
	s.read(4)
}

// option reads an option.
func (s *liar) option() (option uint32, data []byte) {
	h := s.read(lenOptionHeader)
	return binary.BigEndian.Uint32(h[8:]), s.read(int(binary.BigEndian.Uint32(h[12:])))
}

// optReplyBytes is a reply to an option as a server sends it.
func optReplyBytes(option, kind uint32, data ...[]byte) []byte {
	all := bytes.Join(data, nil)
	b := binary.BigEndian.AppendUint64(nil, magicOptReply)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(all)))
	return append(b, all...)
}

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }
func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
func be64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// answerOption answers an option as an honest server would. It returns true at the end of the negotiation.
func (s *liar) answerOption(option uint32, data []byte) bool {
	switch {
	case option == optExtendedHeaders && s.form == formExtended, option == optStructuredReply && s.form >= formStructured:
		s.write(optReplyBytes(option, repAck))
	case option == optSetMetaContext:
		s.write(optReplyBytes(option, repMetaContext, be32(7), []byte(ContextAllocation)), optReplyBytes(option, repAck))
	case option == optGo, option == optInfo:
		s.write(optReplyBytes(option, repInfo, be16(infoExport), be64(s.size), be16(s.flags)), optReplyBytes(option, repAck))
		return option == optGo
	default:
		s.write(optReplyBytes(option, repErrUnsup))
	}
	return false
}

// negotiate is an honest negotiation.
func (s *liar) negotiate() {
	s.greet()
	for !s.answerOption(s.option()) {
	}
}

// request reads a request with its data.
func (s *liar) request() (c call) {
	h := s.read(lenRequestHeader)
	c.flags, c.command = binary.BigEndian.Uint16(h[4:]), binary.BigEndian.Uint16(h[6:])
	c.cookie, c.offset = binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint64(h[16:])
	if s.form == formExtended {
		c.length = binary.BigEndian.Uint64(append(h[24:], s.read(4)...))
	} else {
		c.length = uint64(binary.BigEndian.Uint32(h[24:]))
	}
	if c.command == cmdWrite {
		c.data = s.read(int(c.length))
	}
	return c
}

// simpleBytes is a simple reply.
func simpleBytes(c call, errno uint32) []byte {
	return bytes.Join([][]byte{be32(magicSimple), be32(errno), be64(c.cookie)}, nil)
}

// chunkBytes is a chunk of a reply.
func (s *liar) chunkBytes(c call, flags, kind uint16, data ...[]byte) []byte {
	all := bytes.Join(data, nil)
	if s.form == formExtended {
		return bytes.Join([][]byte{be32(magicExtendedReply), be16(flags), be16(kind), be64(c.cookie), be64(c.offset), be64(uint64(len(all))), all}, nil)
	}
	return bytes.Join([][]byte{be32(magicStructured), be16(flags), be16(kind), be64(c.cookie), be32(uint32(len(all))), all}, nil)
}

// answer answers a request as an honest server of pattern would.
func (s *liar) answer(c call) {
	switch {
	case c.command == cmdRead && s.form == formSimple:
		s.write(simpleBytes(c, 0), patternBytes(int64(c.offset), int(c.length)))
	case c.command == cmdRead:
		s.write(s.chunkBytes(c, replyFlagDone, replyOffsetData, be64(c.offset), patternBytes(int64(c.offset), int(c.length))))
	case c.command == cmdDisconnect:
		panic(gone{})
	case s.form == formSimple:
		s.write(simpleBytes(c, 0))
	default:
		s.write(s.chunkBytes(c, replyFlagDone, replyNone))
	}
}

// honest serves until the client has gone.
func (s *liar) honest() {
	for {
		s.answer(s.request())
	}
}

func TestLiesInTheNegotiationEndIt(t *testing.T) {
	info := func(data ...[]byte) []byte { return optReplyBytes(optGo, repInfo, data...) }
	export := info(be16(infoExport), be64(liarSize), be16(liarFlags))
	ack := optReplyBytes(optGo, repAck)
	context7 := optReplyBytes(optSetMetaContext, repMetaContext, be32(7), []byte(ContextAllocation))
	for _, c := range []struct {
		name   string
		hello  string
		option uint32 // to answer with answer; the others are answered honestly
		answer []byte
		want   string
	}{
		{"another protocol", "SSH-2.0-OpenSSH_9\r\n", 0, nil, "NBD server?"},
		{"nothing at all", "", 0, nil, "hung up"},
		{"half a greeting", hello[:10], 0, nil, "hung up"},
		{"an unknown style", "NBDMAGICIHAVEOPX\x00\x03", 0, nil, "magic"},
		{"oldstyle", "NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53", 0, nil, "oldstyle"},
		{"hanging up on an option", hello, optGo, []byte{}, "hung up"},
		{"another magic", hello, optGo, bytes.Repeat([]byte{1}, 20), "magic"},
		{"an answer to another option", hello, optGo, optReplyBytes(optInfo, repAck), "option 6"},
		{"an endless answer", hello, optGo, bytes.Join([][]byte{be64(magicOptReply), be32(optGo), be32(repInfo), be32(1 << 31)}, nil), "2147483648 bytes"},
		{"an answer that breaks off", hello, optGo, info(be16(infoExport), be64(liarSize))[:25], "hung up"},
		{"success without a size", hello, optGo, ack, "no size"},
		{"a short size", hello, optGo, slices.Concat(info(be16(infoExport), be64(liarSize)), ack), "information 0"},
		{"a size above 2^63", hello, optGo, slices.Concat(info(be16(infoExport), be64(1<<63), be16(1)), ack), "9223372036854775808"},
		{"information without a kind", hello, optGo, slices.Concat(info([]byte{1}), ack), "type 3"},
		{"a reply of another kind", hello, optGo, slices.Concat(optReplyBytes(optGo, repServer, be32(0)), ack), "type 2"},
		{"block sizes that are no power of two", hello, optGo, slices.Concat(export, info(be16(infoBlockSize), be32(3), be32(4096), be32(1<<20)), ack), "block sizes"},
		{"block sizes of zero", hello, optGo, slices.Concat(export, info(be16(infoBlockSize), be32(0), be32(4096), be32(1<<20)), ack), "block sizes"},
		{"a maximum below the minimum", hello, optGo, slices.Concat(export, info(be16(infoBlockSize), be32(4096), be32(4096), be32(512)), ack), "block sizes"},
		{"block sizes that are short", hello, optGo, slices.Concat(export, info(be16(infoBlockSize), be32(4096)), ack), "information 3"},
		{"a name that is too long", hello, optGo, slices.Concat(export, info(be16(infoName), make([]byte, 5000)), ack), "information 1"},
		{"a context without an id", hello, optSetMetaContext, optReplyBytes(optSetMetaContext, repMetaContext, []byte{1}), "type 4"},
		{"a context twice", hello, optSetMetaContext, slices.Concat(context7, context7), "twice"},
		{"two contexts with one id", hello, optSetMetaContext, slices.Concat(context7, optReplyBytes(optSetMetaContext, repMetaContext, be32(7), []byte("x:y"))), "twice"},
		{"contexts without end", hello, optSetMetaContext, func() (b []byte) {
			for i := range uint32(300) {
				b = append(b, optReplyBytes(optSetMetaContext, repMetaContext, be32(i), be32(i))...)
			}
			return b
		}(), "reply 257"},
		{"data where there is none", hello, optStructuredReply, optReplyBytes(optStructuredReply, repInfo, be16(0)), "type 3"},
		{"a refusal with its reason", hello, optGo, optReplyBytes(optGo, repErrPolicy, []byte("not for you\x00")), "not for you"},
		{"a refusal for want of TLS", hello, optGo, optReplyBytes(optGo, repErrTLSReqd), "nbds://"},
		{"an unknown refusal", hello, optGo, optReplyBytes(optGo, repError|99), "0x80000063"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, s := liars(t, formStructured)
			s.run(func() {
				s.write([]byte(c.hello))
				if len(c.hello) < len(hello) {
					s.conn.Close()
				}
				s.read(4)
				for {
					option, data := s.option()
					if option == c.option {
						s.write(c.answer)
						if !strings.Contains(c.name, "refusal") {
							s.conn.Close()
						}
						continue
					}
					s.answerOption(option, data)
				}
			})
			client, err := NewClient(t.Context(), conn, "x", DialConfig{})
			if err == nil {
				client.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("NewClient: %v, want %q", err, c.want)
			}
		})
	}
}

func TestAnOldServerIsUnderstood(t *testing.T) {
	conn, s := liars(t, formSimple)
	s.run(func() {
		s.write([]byte(hello[:16] + "\x00\x00"))
		s.read(4)
		if option, name := s.option(); option != optExportName || string(name) != "x" {
			t.Errorf("option %d with %q", option, name)
		}
		s.write(be64(liarSize), be16(liarFlags), make([]byte, lenZeroes))
		s.honest()
	})
	client, err := NewClient(t.Context(), conn, "x", DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}

// lie is what a server sends in answer to a request; after it comes the honest answer.
type lie struct {
	name string
	form replyForm
	do   func(context.Context, *Client) error
	send func(s *liar, c call) []byte
	want string // of the error; "" means that all is well
}

func lies4K() []lie {
	read := func(ctx context.Context, c *Client) error { return c.ReadAt(ctx, make([]byte, 4096), 8192) }
	write := func(ctx context.Context, c *Client) error { return c.WriteAt(ctx, make([]byte, 4096), 8192, false) }
	status := func(ctx context.Context, c *Client) error {
		return c.Extents(ctx, 8192, 4096, func(int64, bool, bool) bool { return true })
	}
	chunk := func(flags, kind uint16, data ...[]byte) func(*liar, call) []byte {
		return func(s *liar, c call) []byte { return s.chunkBytes(c, flags, kind, data...) }
	}
	data := func(off uint64, n int) func(*liar, call) []byte {
		return chunk(0, replyOffsetData, be64(off), make([]byte, n))
	}
	both := func(send ...func(*liar, call) []byte) func(*liar, call) []byte {
		return func(s *liar, c call) (b []byte) {
			for _, f := range send {
				b = append(b, f(s, c)...)
			}
			return b
		}
	}
	done := chunk(replyFlagDone, replyNone)
	raw := func(b ...[]byte) func(*liar, call) []byte {
		return func(*liar, call) []byte { return bytes.Join(b, nil) }
	}
	one, two := formStructured, formExtended
	extent := be32(4096)
	return []lie{
		{"another magic", one, read, raw(make([]byte, 64)), "magic 0x00000000"},
		{"a request for a reply", one, read, raw(be32(magicRequest), make([]byte, 64)), "magic 0x25609513"},
		{"a simple reply to a read", one, read, func(_ *liar, c call) []byte { return simpleBytes(c, 0) }, "simple reply"},
		{"a simple error to a read", one, read, func(_ *liar, c call) []byte { return simpleBytes(c, 5) }, "simple reply"},
		{"a simple success to a block status", one, status, func(_ *liar, c call) []byte { return simpleBytes(c, 0) }, "simple reply"},
		{"an unknown cookie", one, read, func(s *liar, c call) []byte { c.cookie += 99; return s.chunkBytes(c, 1, replyNone) }, "cookie 100"},
		{"an unknown cookie in a simple reply", formSimple, read, func(_ *liar, c call) []byte { c.cookie = 0; return simpleBytes(c, 0) }, "cookie 0"},
		{"a structured reply that was not agreed on", formSimple, read, func(s *liar, c call) []byte { return s.chunkBytes(c, 1, replyNone) }, "magic 0x668e33ef"},
		{"an extended reply that was not agreed on", one, read, func(_ *liar, c call) []byte { return (&liar{form: two}).chunkBytes(c, 1, replyNone) }, "magic"},
		{"a simple reply among extended ones", two, write, func(_ *liar, c call) []byte { return append(simpleBytes(c, 0), make([]byte, 32)...) }, "magic 0x67446698"},
		{"another offset in an extended header", two, read, func(s *liar, c call) []byte { c.offset++; return s.chunkBytes(c, 1, replyNone) }, "offset 8193"},
		{"success without data", one, read, done, "without all bytes"},
		{"success with less data", one, read, both(data(8192, 4095), done), "without all bytes"},
		{"success with a gap", one, read, both(data(8192, 1000), data(8192+1001, 4096-1001), done), "without all bytes"},
		{"data before the request's", one, read, data(8191, 100), "100 bytes at 8191"},
		{"data behind the request's", one, read, data(8192+4000, 97), "97 bytes at 12192"},
		{"data at an offset that overflows", one, read, data(1<<64-1, 97), "97 bytes at 18446744073709551615"},
		{"data twice", one, read, both(data(8192, 4096), data(8192+100, 1)), "twice"},
		{"data that overlaps at its beginning", one, read, both(data(8192, 100), data(8192+99, 100)), "twice"},
		{"data that overlaps at its end", one, read, both(data(8192+99, 100), data(8192, 100)), "twice"},
		{"data that covers other data", one, read, both(data(8192+99, 1), data(8192, 4096)), "twice"},
		{"a hole over data", one, read, both(data(8192, 100), chunk(0, replyOffsetHole, be64(8192), be32(100))), "twice"},
		{"a huge chunk", one, read, func(s *liar, c call) []byte {
			b := s.chunkBytes(c, 0, replyOffsetData, be64(8192), make([]byte, 100))
			binary.BigEndian.PutUint32(b[16:], 1<<32-1)
			return b
		}, "4294967287 bytes"},
		{"a huge extended chunk", two, read, func(s *liar, c call) []byte {
			b := s.chunkBytes(c, 0, replyOffsetData, be64(8192), make([]byte, 100))
			binary.BigEndian.PutUint64(b[24:], 1<<64-1)
			return b
		}, "bytes at 8192"},
		{"a chunk of no data", one, read, chunk(0, replyOffsetData, be64(8192)), "type 1"},
		{"a chunk without an offset", one, read, chunk(0, replyOffsetData), "type 1"},
		{"a hole of no bytes", one, read, chunk(0, replyOffsetHole, be64(8192), be32(0)), "hole of no bytes"},
		{"a hole that is too long", one, read, chunk(0, replyOffsetHole, be64(8192), be32(4097)), "4097 bytes"},
		{"a hole of another form", one, read, chunk(0, replyOffsetHole, be64(8192), be32(4096), be32(1)), "type 2"},
		{"an end that is not the end", one, read, chunk(0, replyNone), "type 0"},
		{"an end with data", one, read, chunk(replyFlagDone, replyNone, be32(1)), "type 0"},
		{"an unknown chunk", one, read, chunk(0, 99), "type 99"},
		{"data in answer to a write", one, write, data(8192, 4096), "type 1"},
		{"a hole in answer to a write", one, write, chunk(0, replyOffsetHole, be64(8192), be32(4096)), "type 2"},
		{"a status in answer to a read", one, read, chunk(0, replyBlockStatus, be32(7), extent, be32(0)), "type 5"},
		{"a status without end", one, status, func(s *liar, c call) []byte {
			b := s.chunkBytes(c, 0, replyBlockStatus, be32(7))
			binary.BigEndian.PutUint32(b[16:], 4+8*(1<<20+1))
			return b
		}, "block status of 8388620 bytes"},
		{"a status of nothing", one, status, chunk(0, replyBlockStatus, be32(7)), "block status of 4 bytes"},
		{"a status without a context", one, status, chunk(0, replyBlockStatus), "block status of 0 bytes"},
		{"half a descriptor", one, status, chunk(0, replyBlockStatus, be32(7), extent), "block status of 8 bytes"},
		{"a status of an unknown context", one, status, chunk(0, replyBlockStatus, be32(8), extent, be32(0)), "context, 8"},
		{"a status twice", one, status, both(chunk(0, replyBlockStatus, be32(7), extent, be32(0)), chunk(0, replyBlockStatus, be32(7), extent, be32(0))), "context, 7"},
		{"an extent of no bytes", one, status, chunk(0, replyBlockStatus, be32(7), be32(0), be32(0)), "extent of 0 bytes"},
		{"an extent too many", one, status, chunk(0, replyBlockStatus, be32(7), extent, be32(0), extent, be32(1)), "4096 after the beginning"},
		{"success without a status", one, status, done, "0 of 1 contexts"},
		{"an extended status that was not agreed on", one, status, chunk(0, replyBlockStatusExt, be32(7), be32(1), be64(4096), be64(0)), "type 6"},
		{"a compact status in an extended reply", two, status, chunk(0, replyBlockStatus, be32(7), extent, be32(0)), "type 5"},
		{"a status with another count", two, status, chunk(0, replyBlockStatusExt, be32(7), be32(2), be64(4096), be64(0)), "context, 7"},
		{"an extent above 2^63", two, status, chunk(0, replyBlockStatusExt, be32(7), be32(1), be64(1<<63), be64(0)), "extent of 9223372036854775808 bytes"},
		{"an error without a number", one, read, chunk(1, replyError), "error of 0 bytes"},
		{"an error that is none", one, read, chunk(1, replyError, be32(0), be16(0)), "none"},
		{"an error with a text that is not there", one, read, chunk(1, replyError, be32(5), be16(10)), "text of 10"},
		{"an error with more than a text", one, read, chunk(1, replyError, be32(5), be16(0), be32(0)), "text of 0"},
		{"an error with an endless text", one, read, chunk(1, replyError, be32(5), be16(60000), make([]byte, 60000)), "error of 60006 bytes"},
		{"an error at another offset", one, read, chunk(1, replyErrorOffset, be32(5), be16(0), be64(0)), "error at 0"},
		{"an error at no offset", one, read, chunk(1, replyErrorOffset, be32(5), be16(0)), "text of 0"},
		{"an unknown error with a text that is not there", one, read, chunk(1, 1<<15|77, be32(5), be16(9)), "text of 9"},
		{"hanging up", one, read, func(s *liar, _ call) []byte { s.conn.Close(); return nil }, "hung up"},
		{"hanging up in a header", one, read, func(s *liar, c call) []byte { s.write(s.chunkBytes(c, 1, 0)[:10]); s.conn.Close(); return nil }, "hung up"},
		{"hanging up in data", one, read, func(s *liar, c call) []byte {
			s.write(s.chunkBytes(c, 1, replyOffsetData, be64(8192), make([]byte, 4096))[:1000])
			s.conn.Close()
			return nil
		}, "hung up"},
		{"pieces without end", one, func(ctx context.Context, c *Client) error { return c.ReadAt(ctx, make([]byte, 16384), 0) }, func(s *liar, c call) (b []byte) {
			for i := range uint64(maxSpans + 1) {
				b = append(b, s.chunkBytes(c, 0, replyOffsetData, be64(2*i), []byte{1})...)
			}
			return b
		}, "4096 separate pieces"},
		{"a reply twice", one, read, func(s *liar, c call) []byte { s.answer(c); return s.chunkBytes(c, 1, replyNone) }, ""},
	}
}

func TestLiesInRepliesAreFound(t *testing.T) {
	for _, l := range lies4K() {
		t.Run(l.name, func(t *testing.T) {
			conn, s := liars(t, l.form)
			s.run(func() {
				s.negotiate()
				c := s.request()
				s.write(l.send(s, c))
				s.answer(c)
				s.honest()
			})
			client, err := NewClient(t.Context(), conn, "x", DialConfig{})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			err = l.do(t.Context(), client)
			if l.want == "" {
				err = client.ReadAt(t.Context(), make([]byte, 1), 0) // the lie came after the truth
			}
			if err == nil || !strings.Contains(err.Error(), l.want) {
				t.Fatalf("%v, want %q", err, l.want)
			}
			if !errors.Is(err, ErrProtocol) && !strings.Contains(err.Error(), "hung up") {
				t.Errorf("%v, want that it wraps ErrProtocol", err)
			}
			if err := client.ReadAt(t.Context(), make([]byte, 1), 0); err == nil {
				t.Error("the client goes on after a lie")
			}
		})
	}
}

func TestHonestRepliesOfAllForms(t *testing.T) {
	// Each sends a reply to a read of 8192 bytes at 8192.
	for _, c := range []struct {
		name string
		form replyForm
		send func(s *liar, c call)
		hole bool // the second half is one
		want syscall.Errno
	}{
		{"simple", formSimple, func(s *liar, c call) { s.answer(c) }, false, 0},
		{"a simple error", formSimple, func(s *liar, c call) { s.write(simpleBytes(c, errNoSpace)) }, false, syscall.ENOSPC},
		{"an unknown error", formSimple, func(s *liar, c call) { s.write(simpleBytes(c, 4711)) }, false, syscall.EINVAL},
		{"one chunk", formStructured, func(s *liar, c call) { s.answer(c) }, false, 0},
		{"one extended chunk", formExtended, func(s *liar, c call) { s.answer(c) }, false, 0},
		{"unknown flags", formStructured, func(s *liar, c call) {
			s.write(s.chunkBytes(c, 0xffff, replyOffsetData, be64(8192), patternBytes(8192, 8192)))
		}, false, 0},
		{"chunks in any order, then an end", formStructured, func(s *liar, c call) {
			for _, i := range []uint64{3, 1, 0, 2, 7, 5, 6, 4} {
				off := 8192 + 1024*i
				s.write(s.chunkBytes(c, 0, replyOffsetData, be64(off), patternBytes(int64(off), 1024)))
			}
			s.write(s.chunkBytes(c, replyFlagDone, replyNone))
		}, false, 0},
		{"data and a hole", formExtended, func(s *liar, c call) {
			s.write(s.chunkBytes(c, 0, replyOffsetHole, be64(8192+4096), be32(4096)))
			s.write(s.chunkBytes(c, replyFlagDone, replyOffsetData, be64(8192), patternBytes(8192, 4096)))
		}, true, 0},
		{"an error", formStructured, func(s *liar, c call) {
			s.write(s.chunkBytes(c, replyFlagDone, replyError, be32(errIO), be16(4), []byte("worn")))
		}, false, syscall.EIO},
		{"an error and its data", formStructured, func(s *liar, c call) {
			s.write(s.chunkBytes(c, 0, replyOffsetData, be64(8192), make([]byte, 8192)))
			s.write(s.chunkBytes(c, 0, replyErrorOffset, be32(errIO), be16(4), []byte("worn"), be64(9000)))
			s.write(s.chunkBytes(c, replyFlagDone, replyNone))
		}, false, syscall.EIO},
		{"an unknown kind of error", formExtended, func(s *liar, c call) {
			s.write(s.chunkBytes(c, replyFlagDone, 1<<15|99, be32(errNoMem), be16(0), be64(1), be64(2)))
		}, false, syscall.ENOMEM},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, s := liars(t, c.form)
			s.run(func() {
				s.negotiate()
				c.send(s, s.request())
				s.honest()
			})
			client, err := NewClient(t.Context(), conn, "x", DialConfig{})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			p, want := bytes.Repeat([]byte{0xee}, 8192), patternBytes(8192, 8192)
			if c.hole {
				clear(want[4096:])
			}
			err = client.ReadAt(t.Context(), p, 8192)
			var remote *RemoteError
			switch {
			case c.want == 0 && (err != nil || !bytes.Equal(p, want)):
				t.Errorf("ReadAt: %v", err)
			case c.want != 0 && (!errors.As(err, &remote) || remote.Errno() != c.want):
				t.Errorf("ReadAt: %v, want %v", err, c.want)
			}
			if err := client.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p, patternBytes(0, 8192)) {
				t.Errorf("the next read: %v", err)
			}
		})
	}
}

func TestExtendedHeadersAreWide(t *testing.T) {
	conn, s := liars(t, formExtended)
	s.size = 1 << 50
	seen := make(chan call, 10)
	s.run(func() {
		s.negotiate()
		for {
			c := s.request()
			seen <- c
			if c.command == cmdBlockStatus {
				s.write(s.chunkBytes(c, replyFlagDone, replyBlockStatusExt, be32(7), be32(2), be64(1<<49), be64(3), be64(1<<51), be64(0)))
				continue
			}
			s.answer(c)
		}
	})
	client, err := NewClient(t.Context(), conn, "x", DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx := t.Context()
	if err := client.WriteAt(ctx, make([]byte, 77), 1<<49, true); err != nil {
		t.Error(err)
	}
	if c := <-seen; c.flags != cmdFlagPayloadLen|cmdFlagFUA || c.length != 77 || c.offset != 1<<49 {
		t.Errorf("write: %+v", c)
	}
	if err := client.WriteZeroes(ctx, 0, 1<<50, false, true, false); err != nil {
		t.Error(err)
	}
	if c := <-seen; c.flags != cmdFlagNoHole|cmdFlagFastZero || c.length != 1<<50 {
		t.Errorf("zero: %+v", c)
	}
	var got []statusExtent
	if err := client.BlockStatus(ctx, ContextAllocation, 0, 1<<50, func(n int64, status uint64) bool {
		got = append(got, statusExtent{uint64(n), status})
		return true
	}); err != nil {
		t.Error(err)
	}
	if want := []statusExtent{{1 << 49, 3}, {1 << 49, 0}}; !slices.Equal(got, want) {
		t.Errorf("extents %v, want %v", got, want)
	}
}
