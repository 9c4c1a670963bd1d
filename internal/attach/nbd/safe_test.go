//go:build linux

package nbd

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/nbd"
)

func TestAShortTimeLimitKeepsTheKernelFromWritingToAServer(t *testing.T) {
	for _, c := range []struct {
		flags uint16
		limit time.Duration
		fine  bool
	}{
		{0, 0, true}, // the default
		{0, slowest, true},
		{0, slowest - 1, false},
		{0, time.Second, false},
		{readOnly, time.Second, true},
	} {
		if err := safe(c.flags, attach.Times{Request: c.limit}); (err == nil) != c.fine {
			t.Errorf("flags %#x, limit %v: %v", c.flags, c.limit, err)
		}
	}
	if requestTime < slowest {
		t.Errorf("the default is %v, and less than %v is refused", requestTime, slowest)
	}
}

func TestAWritableExportIsNotForTheKernelWithAShortTimeLimit(t *testing.T) {
	server, err := nbd.NewServer(nbd.ServerConfig{Exports: []nbd.Export{{Name: "disk", Device: blocktest.NewDisk(1 << 20)}}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(ctx, l) }) // until it is stopped
	defer wg.Wait()
	defer stop()
	_, err = New(t.TempDir()).AttachRemote(ctx, "nbd://"+l.Addr().String()+"/disk", RemoteOptions{}, attach.Options{Times: attach.Times{Request: time.Second}})
	if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "after 1s") {
		t.Errorf("%v, want an error that wraps errors.ErrUnsupported and says why", err)
	}
}
