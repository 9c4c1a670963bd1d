package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// ask sends a request as one who has negotiated does, and returns the reply's error number and n bytes of data.
func ask(t *testing.T, conn net.Conn, command uint16, off uint64, n uint32, data []byte) (errno uint32, reply []byte) {
	t.Helper()
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, command)
	b = binary.BigEndian.AppendUint64(b, 77)
	b = binary.BigEndian.AppendUint64(b, off)
	b = binary.BigEndian.AppendUint32(b, n)
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(b, data...)); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 16)
	if _, err := io.ReadFull(conn, head); err != nil {
		t.Fatal(err)
	}
	if magic := binary.BigEndian.Uint32(head); magic != magicSimple {
		t.Fatalf("a reply with magic 0x%x", magic)
	}
	if cookie := binary.BigEndian.Uint64(head[8:]); cookie != 77 {
		t.Fatalf("a reply to request %d", cookie)
	}
	if errno = binary.BigEndian.Uint32(head[4:]); errno == 0 && command == cmdRead {
		reply = make([]byte, n)
		if _, err := io.ReadFull(conn, reply); err != nil {
			t.Fatal(err)
		}
	}
	return errno, reply
}

// talk checks that the other end of conn serves an empty device of 8192 bytes that can be written to.
func talk(t *testing.T, conn net.Conn) {
	t.Helper()
	text := []byte("0123456789abcdef")
	if errno, _ := ask(t, conn, cmdWrite, 4096, 16, text); errno != 0 {
		t.Errorf("a write fails with %d", errno)
	}
	if errno, got := ask(t, conn, cmdRead, 4096, 16, nil); errno != 0 || !bytes.Equal(got, text) {
		t.Errorf("read %q, error %d", got, errno)
	}
	if errno, _ := ask(t, conn, cmdRead, 8192, 16, nil); errno == 0 {
		t.Error("a read past the end succeeds")
	}
}

func TestTransmissionIsServedWithoutNegotiation(t *testing.T) {
	server, err := NewServer(ServerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	ended := make(chan error)
	go func() { ended <- server.ServeTransmission(t.Context(), theirs, Export{Device: newDisk(8192)}) }()
	talk(t, ours)
	if got := server.Stats(); got.Requests != 3 || got.Failed != 1 {
		t.Errorf("statistics %+v", got)
	}
	ours.Close()
	if err := <-ended; err == nil {
		t.Error("a client that left without a word is no error")
	}
	if err := server.ServeTransmission(t.Context(), theirs, Export{}); err == nil {
		t.Error("an export without a device is served")
	}
}

func TestAConnectionCanBeNegotiatedForSomebodyElse(t *testing.T) {
	export := Export{Name: "x", Device: newDisk(8192)}
	server, err := NewServer(ServerConfig{Exports: []Export{export}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for _, noGo := range []bool{false, true} {
		config := DialConfig{NoStructuredReplies: true, NoGo: noGo}
		conn, info, err := Negotiate(ctx, URI{Network: "unix", Socket: path, Export: "x"}.String(), config)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size != 8192 || info.Flags() != export.Flags() {
			t.Errorf("%d bytes, flags 0x%x, want 8192, 0x%x", info.Size, info.Flags(), export.Flags())
		}
		talk(t, conn)
		conn.Close()
	}
	if _, _, err := Negotiate(ctx, URI{Network: "unix", Socket: path, Export: "y"}.String(), DialConfig{}); err == nil {
		t.Error("an export that is not there was negotiated")
	}
}
