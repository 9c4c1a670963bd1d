package nbd_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dnbd/dnbd/nbd"
)

// poem is a device to have something to read.
type poem string

func (p poem) Size() int64 { return int64(len(p)) }

func (p poem) ReadAt(_ context.Context, b []byte, off int64) error {
	copy(b, p[off:])
	return nil
}

// serving starts a server of one export and returns its URI.
func serving() (uri string, stop func()) {
	server, err := nbd.NewServer(nbd.ServerConfig{Exports: []nbd.Export{{
		Name: "snow", Description: "the first lines", Device: poem(strings.Repeat("whose woods these are ", 100)),
	}}})
	if err != nil {
		log.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "nbd")
	if err != nil {
		log.Fatal(err)
	}
	socket := filepath.Join(folder, "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, listener) }()
	return "nbd+unix:///snow?socket=" + socket, func() {
		cancel()
		<-done
		os.RemoveAll(folder)
	}
}

func ExampleDial() {
	uri, stop := serving()
	defer stop()

	ctx := context.Background()
	client, err := nbd.Dial(ctx, uri, nbd.DialConfig{Connections: 4, Reconnect: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	line := make([]byte, 21)
	if err := client.ReadAt(ctx, line, 22); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q of %d bytes over %d connections\n", line, client.Size(), client.Info().Connections)
	// Output: "whose woods these are" of 2200 bytes over 4 connections
}

func ExampleList() {
	uri, stop := serving()
	defer stop()

	exports, err := nbd.List(context.Background(), uri, nbd.DialConfig{})
	if err != nil {
		log.Fatal(err)
	}
	for _, x := range exports {
		fmt.Printf("%s: %d bytes, %s\n", x.Name, x.Size, x.Description)
	}
	// Output: snow: 2200 bytes, the first lines
}

func ExampleParseURI() {
	uri, err := nbd.ParseURI("nbds://storage.example/disk%201?tls-certificates=/etc/pki/nbd")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q on %s, port %d, certificates in %s\n", uri.Export, uri.Host, uri.Port, uri.Certificates)

	_, err = nbd.ParseURI("nbd+unix:///disk?path=/run/nbd")
	fmt.Println(err)
	// Output:
	// "disk 1" on storage.example, port 10809, certificates in /etc/pki/nbd
	// NBD URI "nbd+unix:///disk?path=/run/nbd": parameter "path" is not known
}
