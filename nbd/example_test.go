package nbd_test

import (
	"context"
	"fmt"
	"net"

	"github.com/dnbd/dnbd/nbd"
)

// text is a device over a string.
type text string

func (t text) Size() int64 { return int64(len(t)) }

func (t text) ReadAt(_ context.Context, p []byte, off int64) error {
	copy(p, t[off:])
	return nil
}

func Example() {
	server, err := nbd.NewServer(nbd.ServerConfig{
		Exports: []nbd.Export{{Name: "greeting", Device: text("hello, network")}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, listener) }()

	// nbdcopy nbd://127.0.0.1:PORT/greeting - | cat

	cancel()
	fmt.Println(<-done)
	// Output: <nil>
}
