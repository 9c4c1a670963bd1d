package nbd

import (
	"context"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestAServerMayKeepItsListToItself(t *testing.T) {
	n := dial(t, serve(t, ServerConfig{Exports: twoExports(), NoList: true}, listen(t, "unix")).addr).greet(flagFixedNewstyle)
	if r := n.option(optList, nil); len(r) != 1 || r[0].kind != repErrPolicy {
		t.Errorf("LIST: %+v", r)
	}
	n.enter("films")
}

func TestAnExportThatNeedsTLSIsHiddenWithout(t *testing.T) {
	list := append(twoExports(), Export{Name: "secret", Device: pattern(1), NeedsTLS: true})
	n := dial(t, serve(t, ServerConfig{Exports: list}, listen(t, "unix")).addr).greet(flagFixedNewstyle)
	if r := n.option(optList, nil); len(r) != 3 {
		t.Errorf("LIST: %+v", r)
	}
	for _, option := range []uint32{optInfo, optGo} {
		if r := n.option(option, infoData("secret")); !slices.Equal(r, []optReply{{repErrTLSReqd, errNeedsTLS.Error()}}) {
			t.Errorf("option %d: %+v", option, r)
		}
	}
	n.write(optionBytes(optExportName, []byte("secret")))
	n.closed()
}

func TestAHiddenExportIsServedAndNotListed(t *testing.T) {
	list := append(twoExports(), Export{Name: "behind", Device: pattern(page), Hidden: true})
	n := dial(t, serve(t, ServerConfig{Exports: list}, listen(t, "unix")).addr).greet(flagFixedNewstyle)
	if r := n.option(optList, nil); len(r) != 3 { // two exports and the end
		t.Errorf("LIST: %+v", r)
	}
	n.enter("behind")
}

func TestAnExportMayKeepFUAToItself(t *testing.T) {
	d := newDisk(page)
	n := dial(t, serve(t, ServerConfig{Exports: []Export{{Device: d, NoFUA: true}}}, listen(t, "unix")).addr).greet(flagFixedNewstyle)
	if info := n.option(optInfo, infoData(""))[0].data; info[11]&exportFUA != 0 {
		t.Errorf("flags %x", info[10:])
	}
	n.enter("")
	if a := n.request(cmdFlagFUA, cmdWrite, 0, 1); a.errno != 0 || d.last() != "write 1 at 0 fua true" {
		t.Errorf("a write with FUA: %+v, the device got %q", a, d.last())
	}
}

func TestAnExportHasAnIdleTimeoutOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		serve(t, ServerConfig{IdleTimeout: time.Hour, Exports: []Export{{Device: pattern(9), IdleTimeout: time.Minute}}}, l)
		n := l.dial(t).chosen(styleSimple)
		begin := time.Now()
		n.closed()
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("hung up after %v, want a minute", d)
		}
	})
}

func TestOneConnectionIsServedUntilItsClientLeaves(t *testing.T) {
	s, err := NewServer(ServerConfig{Exports: twoExports()})
	if err != nil {
		t.Fatal(err)
	}
	for name, leave := range map[string]func(n *client, stop func()){
		"it disconnects":  func(n *client, _ func()) { n.write(requestBytes(0, cmdDisconnect, 0, 0, 0)) },
		"the server ends": func(_ *client, stop func()) { stop() },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ours, theirs := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- s.ServeConn(ctx, theirs) }()
		n := &client{t: t, conn: ours}
		n.chosen(styleStructured)
		if got := n.get(7, 5); got != string(patternBytes(7, 5)) {
			t.Errorf("%s: read %q", name, got)
		}
		leave(n, cancel)
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		n.closed()
		cancel()
	}
}
