//go:build linux

package nbd

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"golang.org/x/sys/unix"
)

// ends returns the two ends of a connection.
func ends(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { conns[i].Close() })
	}
	return conns[0], conns[1]
}

// rawOf is what guard wants of a connection.
func rawOf(t *testing.T, c net.Conn) syscall.RawConn {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// held is a device whose writes wait for let.
type held struct {
	block.Device
	began chan []byte
	let   chan struct{}
}

func (h *held) WriteAt(_ context.Context, p []byte, _ int64, _ bool) error {
	h.began <- bytes.Clone(p)
	<-h.let
	return nil
}

func TestAWriteThatTheKernelRepeatsIsNotDoneLate(t *testing.T) {
	old, oldKernel := ends(t)
	young, _ := ends(t)
	disk := &held{blocktest.NewMemory(make([]byte, 8192)), make(chan []byte), make(chan struct{})}
	c := newCalls()
	over := func(conn net.Conn) block.Writer { return c.guard(disk, rawOf(t, conn)).(block.Writer) }
	ctx := context.Background()

	// The write is under way on the old connection when the kernel gives that up and repeats it on the young one.
	first, second, stale := make(chan error), make(chan error), make(chan error)
	go func() { first <- over(old).WriteAt(ctx, []byte("first"), 0, false) }()
	if got := <-disk.began; string(got) != "first" {
		t.Fatalf("%q is written", got)
	}
	oldKernel.Close()
	go func() { second <- over(young).WriteAt(ctx, []byte("second"), 3, false) }()
	// Another one has not begun on the old connection, and never will.
	go func() { stale <- over(old).WriteAt(ctx, []byte("stale"), 100, false) }()
	if err := <-stale; !errors.Is(err, unix.ESHUTDOWN) {
		t.Errorf("a write whose connection ended: %v", err)
	}
	disk.let <- struct{}{}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if got := <-disk.began; string(got) != "second" {
		t.Errorf("%q is written after the first", got)
	}
	disk.let <- struct{}{}
	if err := <-second; err != nil {
		t.Error(err)
	}
	if requests, failed, pending, _ := c.count(); requests != 2 || failed != 0 || pending != 0 {
		t.Errorf("%d requests, %d failed, %d pending; want 2, 0, 0", requests, failed, pending)
	}
}
