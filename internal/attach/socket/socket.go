// Package socket attaches devices as local NBD sockets, which QEMU, libnbd and its tools connect to: nbdcopy
// 'nbd+unix:///?socket=PATH' - for one. It needs no privileges.
package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/nbd"
)

const (
	// blockSize is the read size that clients are told to prefer, the size of most images' blocks.
	blockSize = 64 << 10
	// maxPath is the longest path that a client can connect to: sun_path of unix(7) without the final NUL.
	maxPath = 107
	// grace is how long Close waits for reads of clients that connected while it was at it.
	grace = time.Second
)

// Driver attaches devices as sockets.
type Driver struct {
	dir string
}

// New returns a driver that puts sockets for which no path is given into dir.
func New(dir string) *Driver { return &Driver{dir} }

// Name implements attach.Driver.
func (d *Driver) Name() string { return "socket" }

// Available implements attach.Driver: sockets always work.
func (d *Driver) Available() error { return nil }

// Attach implements attach.Driver. The path is o.Socket, or o.Name with .sock in the driver's directory.
func (d *Driver) Attach(_ context.Context, dev block.Device, o attach.Options) (attach.Attachment, error) {
	path := o.Socket
	if o.Resume {
		return nil, attach.NoResume("socket", path)
	}
	if path == "" {
		if o.Name == "" {
			return nil, errors.New("attach as a socket: neither the socket nor the image has a name, give the socket's path")
		}
		path = filepath.Join(d.dir, filepath.Base(o.Name)+".sock")
		if err := os.MkdirAll(d.dir, 0o755); err != nil {
			return nil, fmt.Errorf("attach as a socket: %w", err)
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("attach as a socket: %w", err)
	}
	server, err := nbd.NewServer(nbd.ServerConfig{
		Exports: []nbd.Export{{Description: o.Name, Device: dev, BlockSize: blockSize}},
		Log:     o.Log,
		Grace:   grace,
	})
	if err != nil {
		return nil, fmt.Errorf("attach as socket %s: %w", path, err)
	}
	listener, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("attach as socket %s: %w", path, err)
	}
	return serve(server, path, listener)
}

// attachment is a socket that is being served.
type attachment struct {
	path   string
	file   os.FileInfo // of the socket, to know it again
	peers  *peers
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // held by Close
	closed bool
	err    error // why serving ended; read it after done
}

func serve(server *nbd.Server, path string, l *net.UnixListener) (*attachment, error) {
	file, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &attachment{path: path, file: file, peers: newPeers(l), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.err = server.Serve(ctx, a.peers)
	}()
	return a, nil
}

// Path implements attach.Attachment.
func (a *attachment) Path() string { return a.path }

// Driver implements attach.Attachment.
func (a *attachment) Driver() string { return "socket" }

// Holders implements attach.Attachment: they are the processes that are connected.
func (a *attachment) Holders() ([]string, error) { return a.peers.names(), nil }

// Done implements attach.Attachment.
func (a *attachment) Done() <-chan struct{} { return a.done }

// Close implements attach.Attachment.
func (a *attachment) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil
	}
	if names := a.peers.names(); len(names) > 0 {
		return attach.Busy(a.path, names)
	}
	a.cancel()
	<-a.done
	a.closed = true
	if file, err := os.Lstat(a.path); err != nil || !os.SameFile(file, a.file) {
		return a.err // somebody has removed it, or put another in its place
	}
	return errors.Join(a.err, os.Remove(a.path))
}

// listen opens a socket at path that only this user can connect to. A socket there that nobody serves any more is
// replaced.
func listen(path string) (*net.UnixListener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path has %d bytes, a socket's may have %d; choose a shorter one", len(path), maxPath)
	}
	// The socket is made in a directory of our own and linked to its place when its mode is right: it is never open to
	// others, and whatever appears at path meanwhile is not replaced.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".dnbd")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	private := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: private, Net: "unix"})
	if errors.Is(err, syscall.EINVAL) {
		return nil, fmt.Errorf("%w: the path of the directory is too long, choose a shorter one", err)
	}
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(private, 0o600)
	if err == nil {
		err = publish(private, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// publish gives the socket at private the name path.
func publish(private, path string) error {
	err := os.Link(private, path)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := stale(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.Link(private, path)
}

// stale returns nil if path is a socket that nobody serves, otherwise what it is.
func stale(path string) error {
	file, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if file.Mode().Type() != os.ModeSocket {
		return errors.New("exists and is no socket; remove it or choose another path")
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	return fmt.Errorf("%s serves this socket already; detach it first or choose another path", peerName(conn))
}
