//go:build linux

package uring

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// open makes a ring, or skips the test where there is no io_uring.
func open(t *testing.T, entries int, flags uint32) *Ring {
	t.Helper()
	r, err := New(entries, flags)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatalf("%v, and DNBD_REQUIRE=1", err)
		}
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// heap returns n bytes that stay where they are: a length that is not known beforehand keeps them off the stack.
func heap(n int) []byte { return make([]byte, n) }

func TestReadsComplete(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, flags := range []uint32{0, SQE128, SingleIssuer | DeferTaskrun} {
		r := open(t, 4, flags)
		from, to, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer from.Close()
		defer to.Close()
		bufs := heap(3)
		for round := range 10 { // around the queues' ends
			for i := range bufs {
				if err := r.Read(int(from.Fd()), bufs[i:i+1], 0, uint64(i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.Enter(0); err != nil {
				t.Fatal(err)
			}
			if c, ok := r.Next(); ok {
				t.Fatalf("a read of an empty pipe completed: %+v", c)
			}
			if _, err := to.Write([]byte{byte(round), byte(round), byte(round)}); err != nil {
				t.Fatal(err)
			}
			seen := make(map[uint64]bool)
			for len(seen) < len(bufs) {
				if err := r.Enter(1); err != nil {
					t.Fatal(err)
				}
				for c, ok := r.Next(); ok; c, ok = r.Next() {
					if c.Result != 1 || bufs[c.Data] != byte(round) {
						t.Errorf("flags %#x, round %d: %+v with %d in the buffer", flags, round, c, bufs[c.Data])
					}
					seen[c.Data] = true
				}
			}
		}
	}
}

func TestAFullRingSaysSo(t *testing.T) {
	r := open(t, 2, 0)
	buf := heap(1)
	for range 2 {
		if err := r.Read(-1, buf, 0, 7); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Read(-1, buf, 0, 7); !errors.Is(err, ErrFull) {
		t.Errorf("a third entry: %v", err)
	}
	if err := r.Enter(2); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if c, ok := r.Next(); !ok || c.Data != 7 || c.Result != -int32(unix.EBADF) {
			t.Errorf("a read from no file: %+v, %v", c, ok)
		}
	}
	if err := r.Read(-1, buf, 0, 7); err != nil {
		t.Errorf("after Enter: %v", err)
	}
}

func TestCommandsReachTheDriver(t *testing.T) {
	r := open(t, 1, SQE128)
	null, err := os.Open("/dev/zero") // a driver without commands
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := r.Command(int(null.Fd()), 1, make([]byte, 32), 9); err != nil {
		t.Fatal(err)
	}
	if err := r.Enter(1); err != nil {
		t.Fatal(err)
	}
	if c, ok := r.Next(); !ok || c.Data != 9 || c.Result != -int32(unix.EOPNOTSUPP) {
		t.Errorf("a command to /dev/zero: %+v, %v", c, ok)
	}
}
