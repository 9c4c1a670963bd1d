package wire

import (
	"encoding/hex"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// codec is a message with its two functions, so that one table holds all of them.
type codec struct {
	append func(any) []byte
	parse  func([]byte) (any, error)
}

var codecs = map[Type]codec{
	TypeHello: {
		func(v any) []byte { h := v.(Hello); return h.Append(nil) },
		func(b []byte) (any, error) { return ParseHello(b) },
	},
	TypeWelcome: {
		func(v any) []byte { w := v.(Welcome); return w.Append(nil) },
		func(b []byte) (any, error) { return ParseWelcome(b) },
	},
	TypeAnnounce: {
		func(v any) []byte { a := v.(Announce); return a.Append(nil) },
		func(b []byte) (any, error) { return ParseAnnounce(b) },
	},
	TypeWant: {
		func(v any) []byte { w := v.(Want); return w.Append(nil) },
		func(b []byte) (any, error) {
			var w Want
			err := ParseWant(b, &w)
			return w, err
		},
	},
	TypeData: {
		func(v any) []byte { d := v.(symbol); return append(d.AppendHeader(nil), d.Payload...) },
		func(b []byte) (any, error) {
			var s symbol
			var err error
			s.Payload, err = ParseData(b, &s.Data)
			return s, err
		},
	},
	TypeAck: {
		func(v any) []byte { a := v.(Ack); return a.Append(nil) },
		func(b []byte) (any, error) { return ParseAck(b) },
	},
	TypeDeny: {
		func(v any) []byte { d := v.(Deny); return d.Append(nil) },
		func(b []byte) (any, error) { return ParseDeny(b) },
	},
	TypeCommand: {
		func(v any) []byte { c := v.(Command); return c.Append(nil) },
		func(b []byte) (any, error) { return ParseCommand(b) },
	},
	TypeAnswer: {
		func(v any) []byte { a := v.(Answer); return a.Append(nil) },
		func(b []byte) (any, error) { return ParseAnswer(b) },
	},
}

// symbol is a DATA with its payload.
type symbol struct {
	Data
	Payload []byte
}

// row is a message and its bytes.
type row struct {
	name  string
	typ   Type
	value any
	bytes string // hexadecimal
	size  int    // what bytes is padded to with zeros, 0 for not at all
}

// golden holds messages of each kind, a field's bytes to a group. docs/protocol.md quotes the WANT and its ACK.
var golden = []row{
	{
		name: "hello for whatever there is", typ: TypeHello, size: helloFixed,
		value: Hello{Nonce: 0x0102030405060708},
		bytes: "444e 01 01  0102030405060708 0000000000000000 00 00 0000 0000000000000000",
	},
	{
		name: "hello by name and revision", typ: TypeHello,
		value: Hello{Nonce: 1, Cookie: 0xc00c1e, Revision: 7, Want: HelloName, Name: "debian-12"},
		bytes: "444e 01 01  0000000000000001 0000000000c00c1e 01 09 0000 0000000000000007" +
			strings.Repeat("00", 32) + "64656269616e2d3132",
	},
	{
		name: "hello by id", typ: TypeHello,
		value: Hello{Nonce: 1, Cookie: 2, Want: HelloID, ID: [32]byte{0: 0xaa, 31: 0xbb}},
		bytes: "444e 01 01  0000000000000001 0000000000000002 02 00 0000 0000000000000000" +
			"aa" + strings.Repeat("00", 30) + "bb",
	},
	{
		name: "welcome with a cookie only", typ: TypeWelcome,
		value: Welcome{Server: 3, Epoch: 0xdeadbeef, Nonce: 1, Cookie: 2},
		bytes: "444e 01 02  0003 00 00 deadbeef 0000000000000001 0000000000000002 0000 00 00",
	},
	{
		name: "welcome with two offers", typ: TypeWelcome,
		value: Welcome{
			Server: 3, Epoch: 4, Nonce: 1, Cookie: 2, NBD: 10809, TLS: true, Part: 1, Parts: 2,
			Offers: []Offer{
				{
					Handle: 5, Algorithm: 1, BlockLog: 16, Size: 1 << 30, Revision: 7, Created: 1_700_000_000,
					Root: [32]byte{0: 0x11, 31: 0x22}, Group: netip.MustParseAddrPort("239.1.2.3:10810"), Name: "usr",
				},
				{
					Handle: 6, Algorithm: 1, BlockLog: 12, Size: 1, Group: netip.MustParseAddrPort("[ff02::d]:10810"), Name: "a",
					Signature: []byte("signed"),
				},
			},
		},
		bytes: "444e 01 02  0003 01 02 00000004 0000000000000001 0000000000000002 2a39 02 01" +
			"0005 01 10 03 00 2a3a 00000000000000000000ffffef010203 0000000040000000 000000000007 00006553f100 00000000" +
			"11" + strings.Repeat("00", 30) + "22 757372" +
			"0006 01 0c 01 00 2a3a ff02000000000000000000000000000d 0000000000000001 000000000000 000000000000 00060000" +
			strings.Repeat("00", 32) + "61 7369676e6564",
	},
	{
		name: "announce", typ: TypeAnnounce,
		value: Announce{
			Server: 3, Epoch: 4, Rate: 200_000_000, Backlog: 17, Clients: 8,
			Images: []AnnouncedImage{{Handle: 5, Tag: 0x1122334455667788}, {Handle: 6, State: ImageWithdrawn, Tag: 9}},
		},
		bytes: "444e 01 03  0003 00 02 00000004 000000000bebc200 00000011 0008 000000000000" +
			"0005 00 00 1122334455667788" + "0006 01 00 0000000000000009",
	},
	{
		name: "announce of leaving", typ: TypeAnnounce,
		value: Announce{Server: 3, Leaving: true, Epoch: 4},
		bytes: "444e 01 03  0003 01 00 00000004 0000000000000000 00000000 0000 000000000000",
	},
	{
		name: "want", typ: TypeWant,
		value: Want{
			Server: 3, Handle: 5, Epoch: 4, Cookie: 2, Time: 1_000_000, Seen: 70_000, Received: 69_990, Drops: 1, Age: 1500, Joined: true,
			Ranges: []Range{
				{Block: 813, Count: 16, Priority: ReadAhead},
				{Block: 40, Count: 1, Priority: Bulk, Need: 3},
			},
		},
		bytes: "444e 01 04  0003 0005 00000004 0000000000000002 000f4240 000000011170 01 02 00011166 00000001" +
			"000005dc 00000000" + "0000032d 0010 4000" + "00000028 0001 8003",
	},
	{
		name: "want of a block that somebody waits for", typ: TypeWant,
		value: Want{
			Server: 3, Handle: 5, Epoch: 4, Cookie: 2, Time: 9, Seen: 70_000, Received: 69_990, Joined: true,
			Ranges: []Range{{Block: 812, Count: 1, Priority: Demand}},
		},
		bytes: "444e 01 04  0003 0005 00000004 0000000000000002 00000009 000000011170 01 01 00011166 00000000" +
			"0000000000000000" + "0000032c 0001 0000",
	},
	{
		name: "want that is a report only", typ: TypeWant,
		value: Want{Server: 3, Handle: 5, Epoch: 4, Cookie: 2, Time: 9, Seen: MaxSeq, Age: AgeUnknown, Joined: true},
		bytes: "444e 01 04  0003 0005 00000004 0000000000000002 00000009 ffffffffffff 01 00 00000000 00000000" +
			"ffffffff 00000000",
	},
	{
		name: "want of all that a field can hold, before anything was heard", typ: TypeWant,
		value: Want{Ranges: []Range{{Block: 1<<32 - 1, Count: 1<<16 - 1, Priority: Bulk, Need: MaxNeed}}},
		bytes: "444e 01 04  0000 0000 00000000 0000000000000000 00000000 000000000000 00 01 00000000 00000000" +
			"0000000000000000" + "ffffffff ffff bfff",
	},
	{
		name: "data", typ: TypeData,
		value: symbol{
			Data{
				Server: 3, Handle: 5, Epoch: 4, Seq: 70_001, Backlog: 20, Block: 812, Index: 45, K: 46, Left: 2,
				Class: ReadAhead,
			},
			[]byte("the end"),
		},
		bytes: "444e 01 05  0003 0005 00000004 000000011171 0014 0000032c 002d 002e 02 01 74686520656e64",
	},
	{
		name: "tail mark", typ: TypeData,
		value: symbol{Data{Server: 3, Handle: 5, Epoch: 4, Seq: 70_047}, []byte{}},
		bytes: "444e 01 05  0003 0005 00000004 00000001119f 0000 00000000 0000 0000 00 00",
	},
	{
		name: "ack", typ: TypeAck,
		value: Ack{
			Server: 3, Handle: 5, Epoch: 4, Time: 1_000_000, Horizon: 70_798, Seq: 70_016, Backlog: 46, Queued: 16, InFlight: 1, Clients: 8,
		},
		bytes: "444e 01 06  0003 0005 00000004 000f4240 00000001148e 000000011180 0000002e 0010 0001 0008 0000",
	},
	{
		name: "ack to a client that is alone", typ: TypeAck,
		value: Ack{Server: 3, Handle: 5, Epoch: 4, Clients: 8, Alone: true},
		bytes: "444e 01 06  0003 0005 00000004 00000000 000000000000 000000000000 00000000 0000 0000 0008 0100",
	},
	{
		name: "ack to a client that is alone and slow", typ: TypeAck,
		value: Ack{Server: 3, Handle: 5, Epoch: 4, Clients: 8, Alone: true, Slow: true},
		bytes: "444e 01 06  0003 0005 00000004 00000000 000000000000 000000000000 00000000 0000 0000 0008 0300",
	},
	{
		name: "want that is a note", typ: TypeWant,
		value: Want{Server: 3, Handle: 5, Epoch: 4, Ranges: []Range{{Block: 7, Count: 2, Priority: Note, Need: NoteOverheard}}},
		bytes: "444e 01 04  0003 0005 00000004 0000000000000000 00000000 000000000000 00 01 00000000 00000000 0000000000000000" +
			"00000007 0002 c001",
	},
	{
		name: "deny", typ: TypeDeny,
		value: Deny{Server: 3, Handle: 5, Epoch: 4, Time: 1_000_000, Reason: DenyCookie, Cookie: 0xc00c1e},
		bytes: "444e 01 07  0003 0005 00000004 000f4240 01 000000 0000000000c00c1e 00000000",
	},
	{
		name: "command", typ: TypeCommand,
		value: Command{ID: 0x0102030405060708, Challenge: 0x1112131415161718, Verb: VerbWithdraw, Part: 1, Name: "usr"},
		bytes: "444e 01 0a  0102030405060708 1112131415161718 04 03 0001 757372",
	},
	{
		name: "challenge", typ: TypeAnswer,
		value: Answer{ID: 0x0102030405060708, Challenge: 0x1112131415161718, Text: []byte{}},
		bytes: "444e 01 0b  0102030405060708 1112131415161718 00 00 0000 0000 0000",
	},
	{
		name: "answer", typ: TypeAnswer,
		value: Answer{ID: 1, Challenge: 2, Outcome: OutcomeFailed, Part: 1, Parts: 2, Text: []byte("no such image")},
		bytes: "444e 01 0b  0000000000000001 0000000000000002 03 00 0001 0002 000d 6e6f207375636820696d616765",
	},
}

// datagram is the bytes of a golden row.
func datagram(t testing.TB, text string, size int) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, max(size-len(b), 0))...)
}

func TestMessagesAreTheseBytes(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			want := datagram(t, g.bytes, g.size)
			if got := codecs[g.typ].append(g.value); string(got) != string(want) {
				t.Errorf("encoded\n%x, want\n%x", got, want)
			}
			got, err := codecs[g.typ].parse(want)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, g.value) {
				t.Errorf("parsed\n%+v, want\n%+v", got, g.value)
			}
			if typ, err := TypeOf(want); typ != g.typ || err != nil {
				t.Errorf("TypeOf: %d, %v", typ, err)
			}
		})
	}
}
