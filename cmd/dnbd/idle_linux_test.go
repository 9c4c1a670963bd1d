package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// idleMemory, in bytes, is about three times what the server has been seen to need for its idle clients.
const idleMemory = 256 << 20

// mayOpen makes sure that this process and those that it starts may have n files open.
func mayOpen(t *testing.T, n uint64) {
	t.Helper()
	var have syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &have); err != nil {
		t.Fatal(err)
	}
	if have.Cur >= n {
		return
	}
	want := syscall.Rlimit{Cur: n, Max: max(n, have.Max)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		lacking(t, fmt.Sprintf("a process may open %d files here, and %d are needed: %v", have.Cur, n, err))
	}
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &have) })
}

// mostMemory is the most memory that a process has had, in bytes.
func mostMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	kib, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func TestTenThousandIdleClientsHarmNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits until the server's patience with 10,000 clients is over")
	}
	t.Parallel()
	mayOpen(t, idlers+500)
	socket := socketPath(t)
	s := serving(t, "--writable", "--max-connections", strconv.Itoa(idlers), "--nbd", "unix:"+socket, "--nbd", "127.0.0.1:0", diskFile(t))
	tcp := strings.TrimPrefix(regexp.MustCompile(`nbd://\S+`).FindString(s.told), "nbd://")

	working := dialed(t, socket)
	works := func(i int) {
		t.Helper()
		want, got := []byte(fmt.Sprintf("%08d", i)), make([]byte, 8)
		err := errors.Join(working.WriteAt(t.Context(), want, int64(i), false), working.ReadAt(t.Context(), got, int64(i)))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("a client that works reads %q for %q: %v", got, want, err)
		}
	}
	greeting := make([]byte, 18)
	connect := func(i int) (net.Conn, error) {
		network, address := "unix", socket
		if i%2 == 0 {
			network, address = "tcp", tcp
		}
		c, err := net.DialTimeout(network, address, patience)
		if err != nil {
			return nil, err
		}
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
		if _, err = io.ReadFull(c, greeting); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		return c, nil
	}
	idle := make([]net.Conn, 0, idlers)
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for i := range idlers - 4 /* that dialed opens */ {
		c, err := connect(i)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		idle = append(idle, c)
		works(i)
		if i%4 == 0 {
			if _, err := c.Write([]byte("\x00\x00\x00\x01IHAVE")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if c, err := connect(0); !errors.Is(err, io.EOF) {
		t.Errorf("a client more than --max-connections says: %v, %v", c, err)
	}
	most := mostMemory(t, s.cmd.Process.Pid)
	t.Logf("the server has %d MiB", most>>20)
	if most > idleMemory {
		t.Errorf("the server has %d MiB for %d idle clients", most>>20, idlers)
	}

	// They are hung up on, and others have their places.
	for i, c := range idle {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(greeting); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("client %d is not hung up on: %d bytes, %v", i, n, err)
		}
		works(i)
	}
	c, err := connect(0)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if said := s.said.String(); !strings.Contains(said, "turned away, there are too many") || !strings.Contains(said, fmt.Sprintf("limit=%d", idlers)) {
		t.Errorf("the log does not say who was turned away: %.2000s", said)
	}
}
