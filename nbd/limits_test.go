package nbd

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestAnIdleClientIsHungUpOn(t *testing.T) {
	for name, sent := range map[string][]byte{
		"nothing":       nil,
		"half a header": requestBytes(0, cmdRead, 1, 0, 5)[:13],
		"half a write":  append(requestBytes(0, cmdWrite, 1, 0, 5), "abc"...),
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newPipeListener()
			serve(t, ServerConfig{Exports: []Export{{Device: newDisk(page)}}, IdleTimeout: time.Minute}, l)
			n := l.dial(t).chosen(styleSimple)
			time.Sleep(59 * time.Second)
			n.get(0, 5)
			n.write(sent)
			begin := time.Now()
			n.closed()
			if d := time.Since(begin); d != time.Minute {
				t.Errorf("%s: hung up after %v, want a minute", name, d)
			}
		})
	}
}

func TestAClientThatWaitsForAnAnswerIsNotIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		serve(t, ServerConfig{IdleTimeout: time.Minute, Exports: []Export{{Device: readFunc(func(context.Context, []byte, int64) error {
			time.Sleep(time.Hour)
			return nil
		})}}}, l)
		n := l.dial(t).chosen(styleSimple)
		n.get(0, 5)
		n.get(0, 5)
		begin := time.Now()
		n.closed()
		if d := time.Since(begin); d != time.Minute {
			t.Errorf("hung up after %v, want a minute", d)
		}
	})
}

func TestAClientThatTakesNoRepliesIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		serve(t, ServerConfig{Exports: []Export{{Device: newDisk(page)}}, IdleTimeout: time.Minute}, l)
		n := l.dial(t).chosen(styleSimple)
		n.write(requestBytes(0, cmdRead, 1, 0, 4096))
		time.Sleep(59 * time.Second)
		n.read(1000) // it takes something
		time.Sleep(59 * time.Second)
		n.read(1000)
		time.Sleep(2 * time.Minute)
		n.closed()
	})
}

func TestClientsAreAcceptedOrNotByTheirAddress(t *testing.T) {
	refuse := make(chan bool, 2)
	refuse <- true
	refuse <- false
	s := serve(t, ServerConfig{Exports: twoExports(), Accept: func(client net.Addr) error {
		if client.Network() != "tcp" {
			t.Errorf("asked about %v", client)
		}
		if <-refuse {
			return errors.New("not you")
		}
		return nil
	}}, listen(t, "tcp"))
	dial(t, s.addr).closed()
	dial(t, s.addr).chosen(styleSimple).get(0, 5)
	if got := s.Stats(); got.Connections != 1 || got.Accepted != 2 {
		t.Errorf("Stats = %+v", got)
	}
}

func TestManyIdleConnectionsHarmNobody(t *testing.T) {
	const limit = 100
	s := serve(t, ServerConfig{Exports: twoExports(), MaxConns: limit}, listen(t, "tcp"))
	working := dial(t, s.addr).chosen(styleSimple)
	for range limit - 1 {
		dial(t, s.addr).read(18)
	}
	for range 10 * limit {
		c, err := net.Dial(s.addr.Network(), s.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	if got := working.get(7, 3); got != string(patternBytes(7, 3)) {
		t.Errorf("got %q", got)
	}
}
