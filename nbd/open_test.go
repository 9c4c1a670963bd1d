package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// opened is what an export opened for its clients.
type opened struct {
	disks    chan *disk
	released chan context.Context
}

func newOpened() *opened { return &opened{make(chan *disk, 10), make(chan context.Context, 10)} }

// open is an OpenFunc that gives each client a disk of its own.
func (o *opened) open(ctx context.Context, _ net.Addr) (Device, func(), error) {
	d := newDisk(2 * page)
	o.disks <- d
	return d, func() { o.released <- ctx }, nil
}

func TestEachClientHasTheDeviceThatWasOpenedForIt(t *testing.T) {
	for _, style := range styles {
		o := newOpened()
		s := serve(t, ServerConfig{Exports: []Export{{Name: "own", Open: o.open}}}, listen(t, "unix"))
		one, two := dial(t, s.addr), dial(t, s.addr)
		for i, n := range []*client{one, two} {
			n.greet(flagFixedNewstyle)
			n.agree(style)
			if style != styleSimple {
				n.option(optSetMetaContext, queriesData("own", ContextAllocation))
			}
			n.enter("own")
			n.put(page, fmt.Sprint(i))
		}
		if a, b := one.get(page, 1), two.get(page, 1); a != "0" || b != "1" {
			t.Errorf("style %v: clients read %s and %s, want 0 and 1", style, a, b)
		}
		if style != styleSimple {
			want := []extent{{page, stateHole | stateZero}, {page, 0}}
			if a := one.request(0, cmdBlockStatus, 0, 2*page); !slices.Equal(a.extents[1], want) {
				t.Errorf("style %v: extents %v, want %v", style, a.extents, want)
			}
		}
		for _, n := range []*client{one, two} {
			_ = n.conn.Close()
			<-o.released
		}
		if n := len(o.disks); n != 2 {
			t.Errorf("style %v: opened %d times, want 2", style, n)
		}
	}
}

func TestExportNameOpensToo(t *testing.T) {
	o := newOpened()
	s := serve(t, ServerConfig{Exports: []Export{{Open: o.open}}}, listen(t, "unix"))
	n := dial(t, s.addr).greet(flagFixedNewstyle | flagNoZeroes)
	n.write(optionBytes(optExportName, nil))
	if got := n.read(10); got[6] != 2*page>>8 {
		t.Errorf("size %x", got)
	}
	n.put(0, "x")
	if got := (<-o.disks).text(0, 1); got != "x" {
		t.Errorf("the device has %q", got)
	}
	n.write(requestBytes(0, cmdDisconnect, 0, 0, 0))
	<-o.released
	n.closed()
}

func TestAQuestionOpensAndReleases(t *testing.T) {
	o := newOpened()
	s := serve(t, ServerConfig{Exports: []Export{{Open: o.open}}}, listen(t, "unix"))
	n := dial(t, s.addr).greet(flagFixedNewstyle)
	for i := range 3 {
		if r := n.option(optInfo, infoData("")); r[len(r)-1].kind != repAck {
			t.Fatalf("INFO: %+v", r)
		}
		if len(o.disks) != i+1 || len(o.released) != i+1 {
			t.Errorf("after %d questions: opened %d times, released %d times", i+1, len(o.disks), len(o.released))
		}
	}
}

func TestOnlyASharedExportIsForSeveralConnections(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for name, d := range map[string]Device{"all": newDisk(page), "no flush": plain{newDisk(page)}, "read-only": pattern(page)} {
			open := func(context.Context, net.Addr) (Device, func(), error) { return d, nil, nil }
			s := serve(t, ServerConfig{Exports: []Export{{Open: open, Shared: shared}}}, listen(t, "unix"))
			info := dial(t, s.addr).greet(flagFixedNewstyle).option(optInfo, infoData(""))[0].data
			if got := info[10]&(exportMultiConn>>8) != 0; got != shared {
				t.Errorf("shared %v, %s: several connections %v", shared, name, got)
			}
		}
	}
}

func TestAClientThatMayNotHaveAnExportHearsWhy(t *testing.T) {
	refusing := func(err error) OpenFunc {
		return func(context.Context, net.Addr) (Device, func(), error) {
			return nil, nil, err
		}
	}
	list := []Export{
		{Name: "policy", Open: refusing(fmt.Errorf("%w: not from there", ErrRefused))},
		{Name: "missing", Open: refusing(errors.New("there is no disk in the drive"))},
		{Name: "odd", Open: func(context.Context, net.Addr) (Device, func(), error) { return pattern(-1), nil, nil }},
		{Name: "fine", Device: pattern(100)},
	}
	s := serve(t, ServerConfig{Exports: list}, listen(t, "unix"))
	n := dial(t, s.addr).greet(flagFixedNewstyle)
	for _, option := range []uint32{optInfo, optGo} {
		for _, c := range []struct {
			name string
			want optReply
		}{
			{"policy", optReply{repErrPolicy, "refused: not from there"}},
			{"missing", optReply{repErrUnknown, "there is no disk in the drive"}},
			{"odd", optReply{repErrUnknown, "device of -1 bytes"}},
		} {
			if r := n.option(option, infoData(c.name)); !slices.Equal(r, []optReply{c.want}) {
				t.Errorf("option %d of %s: %+v, want %+v", option, c.name, r, c.want)
			}
		}
	}
	if got := n.enter("fine").get(0, 100); got != string(patternBytes(0, 100)) {
		t.Error("another export reads wrong afterwards")
	}

	n = dial(t, s.addr).greet(flagFixedNewstyle)
	n.write(optionBytes(optExportName, []byte("policy")))
	n.closed()
}

func TestWhatWasOpenedLivesAsLongAsTheConnection(t *testing.T) {
	o := newOpened()
	s := serve(t, ServerConfig{Exports: []Export{{Open: o.open}}}, listen(t, "unix"))
	n := dial(t, s.addr).chosen(styleSimple)
	s.stop()
	ctx := <-o.released
	<-ctx.Done() // or this hangs
	n.closed()
}

func TestAServerThatEndsDoesNotWaitForOpening(t *testing.T) {
	begun := make(chan struct{})
	s := serve(t, ServerConfig{Exports: []Export{{Open: func(ctx context.Context, _ net.Addr) (Device, func(), error) {
		close(begun)
		<-ctx.Done()
		return nil, nil, ctx.Err()
	}}}}, listen(t, "unix"))
	n := dial(t, s.addr).greet(flagFixedNewstyle)
	n.write(optionBytes(optGo, infoData("")))
	<-begun
	s.stop()
	n.closed()
}

func TestOpeningMayTakeLongerThanAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		serve(t, ServerConfig{HandshakeTimeout: time.Minute, Exports: []Export{{Open: func(context.Context, net.Addr) (Device, func(), error) {
			time.Sleep(time.Hour)
			return pattern(5), nil, nil
		}}}}, l)
		if got := l.dial(t).chosen(styleSimple).get(0, 5); !strings.HasPrefix(string(patternBytes(0, 9)), got) {
			t.Errorf("read %x", got)
		}
	})
}
