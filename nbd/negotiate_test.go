package nbd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// twoExports are what most tests of the negotiation offer.
func twoExports() []Export {
	return []Export{
		{Name: "debian", Description: "a system", Device: pattern(5_000_000), BlockSize: 65536},
		{Name: "films", Device: pattern(1 << 40)},
	}
}

// negotiating is a client of twoExports that has exchanged flags.
func negotiating(t *testing.T) *client {
	t.Helper()
	return dial(t, serve(t, ServerConfig{Exports: twoExports()}, listen(t, "tcp")).addr).greet(flagFixedNewstyle | flagNoZeroes)
}

const (
	flagsPlain      = "\x01\x07" // has flags, read-only, flush, multi-conn
	flagsStructured = "\x01\x87" // and DF
)

func TestOptionsAreAnsweredAsTheProtocolSays(t *testing.T) {
	allocationListed := optReply{repMetaContext, "\x00\x00\x00\x00base:allocation"}
	sizeDebian := "\x00\x00\x00\x00\x00\x4c\x4b\x40"
	for _, c := range []struct {
		name       string
		structured bool
		option     uint32
		data       []byte
		want       []optReply // an error's text is not compared
	}{
		{"LIST lists all exports with their descriptions", false, optList, nil, []optReply{
			{repServer, "\x00\x00\x00\x06debiana system"},
			{repServer, "\x00\x00\x00\x05films"},
			{repAck, ""},
		}},
		{"LIST with data is invalid", false, optList, []byte("x"), []optReply{{repErrInvalid, ""}}},
		{"INFO tells the size and flags", false, optInfo, infoData("debian"), []optReply{
			{repInfo, "\x00\x00" + sizeDebian + flagsPlain}, {repAck, ""},
		}},
		{"the empty name means the first export", false, optInfo, infoData("", infoName), []optReply{
			{repInfo, "\x00\x00" + sizeDebian + flagsPlain}, {repInfo, "\x00\x01debian"}, {repAck, ""},
		}},
		{
			"INFO tells what was asked for, once, and DF where it can be used", true, optInfo,
			infoData("debian", infoBlockSize, infoDescription, infoExport, infoBlockSize, 77),
			[]optReply{
				{repInfo, "\x00\x00" + sizeDebian + flagsStructured},
				{repInfo, "\x00\x03\x00\x00\x00\x01\x00\x01\x00\x00\x04\x00\x00\x00"},
				{repInfo, "\x00\x02a system"},
				{repAck, ""},
			},
		},
		{"no description is no information", false, optInfo, infoData("films", infoDescription), []optReply{
			{repInfo, "\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00" + flagsPlain}, {repAck, ""},
		}},
		{"INFO of an unknown export", false, optInfo, infoData("nosuch"), []optReply{{repErrUnknown, ""}}},
		{"GO to an unknown export", false, optGo, infoData("nosuch"), []optReply{{repErrUnknown, ""}}},
		{"INFO without a length", false, optInfo, nil, []optReply{{repErrInvalid, ""}}},
		{"INFO with a name beyond its end", false, optInfo, []byte("\x00\x00\x00\x05abc\x00\x00"), []optReply{{repErrInvalid, ""}}},
		{"INFO with a name of 4 GiB", false, optInfo, []byte("\xff\xff\xff\xffabc\x00\x00"), []optReply{{repErrInvalid, ""}}},
		{"INFO without a count", false, optInfo, infoData("debian")[:10], []optReply{{repErrInvalid, ""}}},
		{"INFO with fewer requests than it counts", false, optInfo, infoData("debian", 1, 2)[:14], []optReply{{repErrInvalid, ""}}},
		{"GO with more than it counts", false, optGo, append(infoData("debian"), 0), []optReply{{repErrInvalid, ""}}},
		{"STRUCTURED_REPLY", false, optStructuredReply, nil, []optReply{{repAck, ""}}},
		{"STRUCTURED_REPLY with data", false, optStructuredReply, []byte{1}, []optReply{{repErrInvalid, ""}}},
		{"all contexts are listed", true, optListMetaContext, queriesData("debian"), []optReply{allocationListed, {repAck, ""}}},
		{"a namespace is listed", true, optListMetaContext, queriesData("debian", "qemu:", "base:"), []optReply{allocationListed, {repAck, ""}}},
		{"a context is listed", true, optListMetaContext, queriesData("debian", "base:allocation"), []optReply{allocationListed, {repAck, ""}}},
		{"a context that is not there", true, optListMetaContext, queriesData("debian", "base:x", "x", ":", ""), []optReply{{repAck, ""}}},
		{"a context is selected", true, optSetMetaContext, queriesData("", "qemu:x", "base:allocation", "base:allocation"), []optReply{
			{repMetaContext, "\x00\x00\x00\x01base:allocation"}, {repAck, ""},
		}},
		{"a namespace selects nothing", true, optSetMetaContext, queriesData("debian", "base:"), []optReply{{repAck, ""}}},
		{"no query selects nothing", true, optSetMetaContext, queriesData("debian"), []optReply{{repAck, ""}}},
		{"EXTENDED_HEADERS", false, optExtendedHeaders, nil, []optReply{{repAck, ""}}},
		{"EXTENDED_HEADERS with data", true, optExtendedHeaders, []byte{1}, []optReply{{repErrInvalid, ""}}},
		{"contexts of an unknown export", true, optSetMetaContext, queriesData("nosuch"), []optReply{{repErrUnknown, ""}}},
		{"contexts need structured replies", false, optSetMetaContext, queriesData("debian"), []optReply{{repErrInvalid, ""}}},
		{"more contexts than follow", true, optSetMetaContext, []byte("\x00\x00\x00\x00\xff\xff\xff\xff"), []optReply{{repErrInvalid, ""}}},
		{"bytes after the contexts", true, optSetMetaContext, append(queriesData("debian", "base:"), 0), []optReply{{repErrInvalid, ""}}},
		{"contexts without a count", true, optListMetaContext, []byte("\x00\x00\x00\x00"), []optReply{{repErrInvalid, ""}}},
		{"STARTTLS where there is no TLS", false, optStartTLS, nil, []optReply{{repErrPolicy, ""}}},
		{"an unknown option", false, 4711, []byte("whatever"), []optReply{{repErrUnsup, ""}}},
		{"an option that is too long", false, optInfo, make([]byte, maxOption+1), []optReply{{repErrTooBig, ""}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := negotiating(t)
			if c.structured {
				n.agree(styleStructured)
			}
			got := n.option(c.option, c.data)
			for i := range got {
				if got[i].kind&repError != 0 {
					if got[i].data == "" {
						t.Error("the error has no text")
					}
					got[i].data = ""
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
			if style := map[uint32]replyStyle{optStructuredReply: styleStructured, optExtendedHeaders: styleExtended}[c.option]; got[0].kind == repAck {
				n.style = max(n.style, style)
			}
			// Whatever it was, the negotiation goes on.
			if r := n.option(optGo, infoData("films")); r[len(r)-1].kind != repAck {
				t.Errorf("GO afterwards: %+v", r)
			}
			if a := n.request(0, cmdRead, 1<<39, 10); !bytes.Equal(a.data, patternBytes(1<<39, 10)) {
				t.Errorf("READ afterwards: %+v", a)
			}
		})
	}
}

func TestExportNameTellsSizeAndFlags(t *testing.T) {
	for _, c := range []struct {
		flags   uint32
		padding int
	}{{flagFixedNewstyle | flagNoZeroes, 0}, {flagFixedNewstyle, 124}, {0, 124}} {
		n := dial(t, serve(t, ServerConfig{Exports: twoExports()}, listen(t, "tcp")).addr).greet(c.flags)
		n.write(optionBytes(optExportName, []byte("films")))
		want := "\x00\x00\x01\x00\x00\x00\x00\x00" + flagsPlain + strings.Repeat("\x00", c.padding)
		if got := string(n.read(10 + c.padding)); got != want {
			t.Errorf("client flags %d: got %q, want %q", c.flags, got, want)
		}
		if a := n.request(0, cmdRead, 5, 3); !bytes.Equal(a.data, patternBytes(5, 3)) {
			t.Errorf("client flags %d: READ: %+v", c.flags, a)
		}
	}
}

func TestTheEmptyNameIsTheExportWithThatName(t *testing.T) {
	list := append(twoExports(), Export{Device: pattern(77)})
	n := dial(t, serve(t, ServerConfig{Exports: list}, listen(t, "unix")).addr).greet(flagFixedNewstyle)
	if r := n.option(optInfo, infoData("")); r[0].data != "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x4d"+flagsPlain {
		t.Errorf("got %+v", r)
	}
}

func TestAbortIsAcknowledged(t *testing.T) {
	n := negotiating(t)
	if got := n.option(optAbort, []byte("ignored")); !slices.Equal(got, []optReply{{repAck, ""}}) {
		t.Errorf("got %+v", got)
	}
	n.closed()
}

func TestBrokenNegotiationsAreHungUpOn(t *testing.T) {
	for name, sent := range map[string]string{
		"an unknown client flag":         "\x00\x00\x00\x07",
		"an option without its magic":    "\x00\x00\x00\x03" + strings.Repeat("x", 16),
		"an option of 4 GiB":             "\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x06\xff\xff\xff\xff",
		"an unknown EXPORT_NAME":         "\x00\x00\x00\x03" + string(optionBytes(optExportName, []byte("nosuch"))),
		"an EXPORT_NAME that is too big": "\x00\x00\x00\x03" + string(optionBytes(optExportName, make([]byte, maxOption+1)))[:16],
	} {
		t.Run(name, func(t *testing.T) {
			n := dial(t, serve(t, ServerConfig{Exports: twoExports()}, listen(t, "tcp")).addr)
			n.read(18)
			n.write([]byte(sent))
			n.closed()
		})
	}
}

func TestANegotiationThatNeverEndsIsHungUpOn(t *testing.T) {
	n := negotiating(t)
	for range maxOptions {
		n.option(4711, nil)
	}
	n.closed()
}

func TestASilentClientIsHungUpOn(t *testing.T) {
	for name, sent := range map[string]string{
		"nothing":     "",
		"half flags":  "\x00\x00",
		"half option": "\x00\x00\x00\x03IHAVE",
		"half data":   "\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x06\x00\x00\x00\x06xy",
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newPipeListener()
			serve(t, ServerConfig{Exports: twoExports(), HandshakeTimeout: time.Minute}, l)
			n := l.dial(t)
			n.read(18)
			n.write([]byte(sent))
			begin := time.Now()
			n.closed()
			if d := time.Since(begin); d != time.Minute {
				t.Errorf("%s: hung up after %v, want a minute", name, d)
			}
		})
	}
}

func TestExportsThatCannotBeServedAreNamed(t *testing.T) {
	d := pattern(1)
	for _, c := range []struct {
		want string
		list []Export
	}{
		{`export "a": another export has this name`, []Export{{Name: "a", Device: d}, {Name: "a", Device: d}}},
		{`export "a": no device`, []Export{{Name: "a"}}},
		{`export "a": a device, and a function that opens one`, []Export{{Name: "a", Device: d, Open: func(context.Context, net.Addr) (Device, func(), error) {
			return d, nil, nil
		}}}},
		{`export "a": device of -1 bytes`, []Export{{Name: "a", Device: pattern(-1)}}},
		{`export "a": block size 1000`, []Export{{Name: "a", Device: d, BlockSize: 1000}}},
		{`export "a": block size 256`, []Export{{Name: "a", Device: d, BlockSize: 256}}},
		{`export "ab": a name has`, []Export{{Name: "a\x00b", Device: d}}},
		{`export "x": a description has`, []Export{{Name: "x", Description: "\xff", Device: d}}},
	} {
		if _, err := NewServer(ServerConfig{Exports: c.list}); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestExportsCanBeReplacedWhileServing(t *testing.T) {
	s := serve(t, ServerConfig{Exports: twoExports()}, listen(t, "tcp"))
	old := dial(t, s.addr).chosen(styleSimple)
	if err := s.SetExports([]Export{{Name: "x", Device: pattern(3)}}); err != nil {
		t.Fatal(err)
	}
	if a := old.request(0, cmdRead, 1000, 8); !bytes.Equal(a.data, patternBytes(1000, 8)) {
		t.Errorf("a client of the old list: %+v", a)
	}
	if r := dial(t, s.addr).greet(flagFixedNewstyle).option(optList, nil); len(r) != 2 || r[0].data != "\x00\x00\x00\x01x" {
		t.Errorf("a new client: %+v", r)
	}
}

// FuzzNegotiation feeds a server any bytes and checks that what it answers is well-formed.
func FuzzNegotiation(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03" + string(optionBytes(optStructuredReply, nil)) + string(optionBytes(optList, nil)) +
		string(optionBytes(optGo, infoData("films", infoBlockSize, infoName)))))
	f.Add([]byte("\x00\x00\x00\x01" + string(optionBytes(optExportName, nil))))
	f.Add([]byte("\x00\x00\x00\x03" + string(optionBytes(optStructuredReply, nil)) +
		string(optionBytes(optSetMetaContext, []byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x05base:"))) +
		string(optionBytes(optAbort, nil))))
	f.Add([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x06\x00\x0f\xff\xff"))
	var list exports
	if err := list.set(twoExports()); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		var out bytes.Buffer
		n := &negotiation{exports: &list, r: bufio.NewReader(bytes.NewReader(sent)), w: &out, waiting: func() error { return nil }}
		session, err := n.run()
		if (err == nil) != (session.export.Device != nil) {
			t.Fatalf("run = %+v, %v", session, err)
		}
		if err != nil && !errors.Is(err, errBroken) && !errors.Is(err, errAborted) &&
			!errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("an error that is none of the client's: %v", err)
		}
		for answered := out.Bytes()[18:]; len(answered) > 0; {
			if len(answered) == 10 || len(answered) == 10+lenZeroes {
				break // to EXPORT_NAME, the last
			}
			length := int(binary.BigEndian.Uint32(answered[16:]))
			if binary.BigEndian.Uint64(answered) != magicOptReply || 20+length > len(answered) {
				t.Fatalf("ill-formed reply %q", answered)
			}
			answered = answered[20+length:]
		}
	})
}
