package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
)

// queriesData is the data of a LIST or SET_META_CONTEXT.
func queriesData(name string, queries ...string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = binary.BigEndian.AppendUint32(b, uint32(len(q)))
		b = append(b, q...)
	}
	return b
}

// counting is a context whose statuses are the numbers of the pages.
func counting(name string, wide bool) Context {
	return Context{Name: name, Wide: wide, Status: func(_ context.Context, off, n int64, yield func(int64, uint64) bool) error {
		for end := off + n; off < end; {
			next := off/page*page + page
			status := uint64(off / page)
			if wide {
				status |= 1 << 40
			}
			if !yield(next-off, status) {
				return nil
			}
			off = next
		}
		return nil
	}}
}

// mapped is a client of the export that has selected contexts, by the ids that the server gave to them.
func mapped(t *testing.T, x Export, style replyStyle, contexts ...string) (n *client, ids []uint32) {
	t.Helper()
	s := serve(t, ServerConfig{Exports: []Export{x}}, listen(t, "unix"))
	n = dial(t, s.addr).greet(flagFixedNewstyle)
	n.agree(style)
	replies := n.option(optSetMetaContext, queriesData("", contexts...))
	for _, r := range replies[:len(replies)-1] {
		ids = append(ids, binary.BigEndian.Uint32([]byte(r.data)))
	}
	return n.enter(""), ids
}

const (
	hole = stateHole | stateZero
	data = 0
)

func TestBlockStatusTellsWhatIsAllocated(t *testing.T) {
	d := newDisk(10*page + 100)
	for _, i := range []int{2, 3, 7} {
		d.data[i] = true
	}
	for _, style := range styles[1:] {
		n, ids := mapped(t, Export{Device: d}, style, ContextAllocation)
		if len(ids) != 1 {
			t.Fatalf("ids %v", ids)
		}
		for _, c := range []struct {
			name           string
			flags          uint16
			offset, length uint64
			want           []extent
		}{
			{"everything", 0, 0, 10*page + 100, []extent{{2 * page, hole}, {2 * page, data}, {3 * page, hole}, {page, data}, {2*page + 100, hole}}},
			{"one extent", cmdFlagReqOne, 0, 10 * page, []extent{{2 * page, hole}}},
			{"one extent that is longer", cmdFlagReqOne, 0, page + 1, []extent{{page + 1, hole}}},
			{"a part of a page, which is told as a whole", 0, 100, 1, []extent{{page - 100, hole}}},
			{"from data to a hole", 0, 3*page + 1, page, []extent{{page - 1, data}, {page, hole}}},
			{"the last byte", cmdFlagReqOne, 10*page + 99, 1, []extent{{1, hole}}},
		} {
			if a := n.request(c.flags, cmdBlockStatus, c.offset, c.length); a.errno != 0 || !slices.Equal(a.extents[ids[0]], c.want) {
				t.Errorf("style %d, %s: %+v, want %v", style, c.name, a, c.want)
			}
		}
		for _, c := range [][2]uint64{{0, 0}, {10 * page, 101}, {1 << 62, 5}} {
			if a := n.request(0, cmdBlockStatus, c[0], c[1]); a.errno != errInvalid || a.extents != nil {
				t.Errorf("style %d, %d bytes at %d: %+v", style, c[1], c[0], a)
			}
		}
		if a := n.request(cmdFlagDF, cmdBlockStatus, 0, 5); a.errno != errInvalid {
			t.Errorf("style %d, a flag of reads: %+v", style, a)
		}
	}
}

func TestADeviceWithoutAMapIsAllData(t *testing.T) {
	for style, want := range map[replyStyle]extent{styleStructured: {maxCompactExtent, 0}, styleExtended: {1<<40 - 5, 0}} {
		n, ids := mapped(t, Export{Device: pattern(1 << 40)}, style, ContextAllocation)
		if a := n.request(0, cmdBlockStatus, 5, 10); !slices.Equal(a.extents[ids[0]], []extent{want}) {
			t.Errorf("style %d: %+v", style, a)
		}
		if a := n.request(cmdFlagReqOne, cmdBlockStatus, 5, 10); !slices.Equal(a.extents[ids[0]], []extent{{10, 0}}) {
			t.Errorf("style %d, one: %+v", style, a)
		}
	}
}

func TestSeveralContextsAreAnsweredAtOnce(t *testing.T) {
	x := Export{Device: newDisk(3 * page), Contexts: []Context{counting("x-page:number", false), counting("x-page:wide", true)}}
	n, ids := mapped(t, x, styleExtended, "x-page:wide", ContextAllocation, "x-page:number")
	if len(ids) != 3 {
		t.Fatalf("ids %v", ids)
	}
	a := n.request(0, cmdBlockStatus, page, page+1)
	want := map[uint32][]extent{1: {{page + page, hole}}, 2: {{page, 1}, {page, 2}}, 3: {{page, 1<<40 | 1}, {page, 1<<40 | 2}}}
	for id, list := range want {
		if !slices.Equal(a.extents[id], list) {
			t.Errorf("context %d: %v, want %v", id, a.extents[id], list)
		}
	}
}

func TestWideContextsNeedExtendedHeaders(t *testing.T) {
	x := Export{Device: newDisk(page), Contexts: []Context{counting("x-page:wide", true), counting("x-page:number", false)}}
	if _, ids := mapped(t, x, styleStructured, "x-page:wide", "x-page:number"); !slices.Equal(ids, []uint32{3}) {
		t.Errorf("ids %v, want that of the narrow context", ids)
	}
	s := serve(t, ServerConfig{Exports: []Export{x}}, listen(t, "unix"))
	for _, style := range styles[1:] {
		n := dial(t, s.addr).greet(flagFixedNewstyle)
		n.agree(style)
		if r := n.option(optListMetaContext, queriesData("", "x-page:")); len(r) != int(style)+1 {
			t.Errorf("style %d: %v", style, r)
		}
	}
}

func TestAStatusRequestCanNameItsContexts(t *testing.T) {
	x := Export{Device: newDisk(2 * page), Contexts: []Context{counting("x-page:number", false)}}
	n, _ := mapped(t, x, styleExtended, ContextAllocation, "x-page:number")
	for _, c := range []struct {
		name  string
		ids   []uint32
		errno uint32
		want  int // contexts in the reply
	}{
		{"one", []uint32{2}, 0, 1},
		{"all", []uint32{2, 1}, 0, 2},
		{"none", nil, errInvalid, 0},
		{"an unknown one", []uint32{3}, errInvalid, 0},
		{"one twice", []uint32{1, 1}, errInvalid, 0},
		{"too many", []uint32{1, 2, 3}, errInvalid, 0},
	} {
		payload := binary.BigEndian.AppendUint64(nil, page)
		for _, id := range c.ids {
			payload = binary.BigEndian.AppendUint32(payload, id)
		}
		n.write(append(extendedBytes(cmdFlagPayloadLen, cmdBlockStatus, cookie, page, uint64(len(payload))), payload...))
		if a := n.answer(cookie, 0); a.errno != c.errno || len(a.extents) != c.want {
			t.Errorf("%s: %+v", c.name, a)
		}
	}
	payload := binary.BigEndian.AppendUint64(nil, 2*page)
	payload = append(payload, 0, 0, 0, 1)
	n.write(append(extendedBytes(cmdFlagPayloadLen, cmdBlockStatus, cookie, page, 12), payload...))
	if a := n.answer(cookie, 0); a.errno != errInvalid {
		t.Errorf("past the end: %+v", a)
	}
}

func TestAStatusReplyIsBounded(t *testing.T) {
	x := Export{Device: pattern(1 << 30), Contexts: []Context{counting("x-page:number", false)}}
	n, ids := mapped(t, x, styleStructured, "x-page:number")
	a := n.request(0, cmdBlockStatus, 0, 1<<30)
	if list := a.extents[ids[0]]; len(list) != maxExtents || list[maxExtents-1] != (extent{page, maxExtents - 1}) {
		t.Errorf("error %d, %d extents", a.errno, len(list))
	}
}

func TestADeviceThatMapsWronglyFailsTheRequestAlone(t *testing.T) {
	for name, status := range map[string]func(yield func(int64, uint64) bool) error{
		"an error":        func(func(int64, uint64) bool) error { return errors.New("no map today") },
		"nothing":         func(func(int64, uint64) bool) error { return nil },
		"an empty extent": func(yield func(int64, uint64) bool) error { yield(0, 1); return nil },
		"less than empty": func(yield func(int64, uint64) bool) error { yield(-5, 1); return nil },
	} {
		x := Export{Device: newDisk(page), Contexts: []Context{{Name: "x:y", Status: func(_ context.Context, _, _ int64,
			yield func(int64, uint64) bool,
		) error {
			return status(yield)
		}}}}
		n, _ := mapped(t, x, styleStructured, ContextAllocation, "x:y")
		if a := n.request(0, cmdBlockStatus, 0, page); a.errno != errIO || a.extents != nil || a.text == "" {
			t.Errorf("%s: %+v", name, a)
		}
		n.put(0, "and on")
	}
}

func TestContextsAreThoseOfTheLastSelection(t *testing.T) {
	list := append(twoExports(), Export{Name: "empty"})
	list[2].Device = pattern(0)
	s := serve(t, ServerConfig{Exports: list}, listen(t, "unix"))
	for name, c := range map[string]struct {
		prepare func(n *client)
		ok      bool
	}{
		"selected":                 {func(n *client) { n.option(optSetMetaContext, queriesData("debian", ContextAllocation)) }, true},
		"by the default name":      {func(n *client) { n.option(optSetMetaContext, queriesData("", ContextAllocation)) }, true},
		"never selected":           {func(n *client) {}, false},
		"only listed":              {func(n *client) { n.option(optListMetaContext, queriesData("debian", ContextAllocation)) }, false},
		"selected for another one": {func(n *client) { n.option(optSetMetaContext, queriesData("films", ContextAllocation)) }, false},
		"another one listed since": {func(n *client) {
			n.option(optSetMetaContext, queriesData("debian", ContextAllocation))
			n.option(optListMetaContext, queriesData("films"))
		}, true},
		"selected, then nothing": {func(n *client) {
			n.option(optSetMetaContext, queriesData("debian", ContextAllocation))
			n.option(optSetMetaContext, queriesData("debian"))
		}, false},
		"selected, then wrongly": {func(n *client) {
			n.option(optSetMetaContext, queriesData("debian", ContextAllocation))
			n.option(optSetMetaContext, queriesData("nosuch", ContextAllocation))
		}, false},
	} {
		for _, style := range styles[1:] {
			n := dial(t, s.addr).greet(flagFixedNewstyle)
			n.agree(style)
			c.prepare(n)
			info := n.option(optInfo, infoData("debian"))[0].data
			if announced := info[10]&(exportBlockStatusPayload>>8) != 0; announced != (c.ok && style == styleExtended) {
				t.Errorf("%s, style %d: payloads of BLOCK_STATUS are announced: %v", name, style, announced)
			}
			if a := n.enter("debian").request(0, cmdBlockStatus, 0, 512); (a.errno == 0) != c.ok {
				t.Errorf("%s, style %d: %+v", name, style, a)
			}
		}
	}
}

func TestExtendedHeadersAreForGood(t *testing.T) {
	n := negotiating(t)
	n.agree(styleStructured)
	n.agree(styleExtended)
	if r := n.option(optStructuredReply, nil); r[0].kind != repErrExtHeadersReqd {
		t.Errorf("STRUCTURED_REPLY: %v", r)
	}
	if r := n.option(optExtendedHeaders, nil); r[0].kind != repAck {
		t.Errorf("EXTENDED_HEADERS again: %v", r)
	}
	n.write(optionBytes(optExportName, []byte("films")))
	n.closed()
}

func TestContextsThatCannotBeServedAreNamed(t *testing.T) {
	ok := counting("a:b", false)
	for _, c := range []struct {
		want string
		list []Context
	}{
		{`metadata context "base:x" is not`, []Context{counting("base:x", false)}},
		{`metadata context "x" is not`, []Context{counting("x", false)}},
		{`metadata context ":x" is not`, []Context{counting(":x", false)}},
		{`metadata context "x:" is not`, []Context{counting("x:", false)}},
		{`metadata context "a:c" has no function`, []Context{{Name: "a:c"}}},
		{`metadata context "a:b" twice`, []Context{ok, ok}},
	} {
		_, err := NewServer(ServerConfig{Exports: []Export{{Name: "e", Device: pattern(1), Contexts: c.list}}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"e"`) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
