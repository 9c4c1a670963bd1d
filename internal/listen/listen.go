package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/mdlayher/vsock"
)

// staleTimeout is how long a process that listens at a unix socket may take to show that it does.
const staleTimeout = time.Second

// Listen opens the sockets of an address: one for each IP address of a name, and all that a service manager passed on. A unix socket that
// a dead process left is replaced. The error names the address. At standard input nobody can listen.
func (a Address) Listen(ctx context.Context) ([]net.Listener, error) {
	open := map[kind]func(context.Context) ([]net.Listener, error){
		tcp: a.listenTCP, unixSocket: a.listenUnix, vsockPort: a.listenVsock, inherited: inherit, standardInput: notHere,
	}[a.kind]
	ls, err := open(ctx)
	if err != nil {
		Close(ls)
		return nil, fmt.Errorf("listen at %v: %w", a, err)
	}
	return ls, nil
}

// Close closes listeners that are not used after all.
func Close(ls []net.Listener) {
	for _, l := range ls {
		_ = l.Close() // nothing was accepted that could be lost
	}
}

func (a Address) listenTCP(ctx context.Context) ([]net.Listener, error) {
	hosts := []string{""}
	if a.host != "" {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", a.host)
		if err != nil {
			return nil, err
		}
		hosts = hosts[:0]
		for _, ip := range ips {
			hosts = append(hosts, ip.Unmap().String())
		}
	}
	var ls []net.Listener
	port := strconv.FormatUint(uint64(a.port), 10)
	for _, host := range hosts {
		var c net.ListenConfig
		l, err := c.Listen(ctx, tcpNetwork(host), net.JoinHostPort(host, port))
		if err != nil {
			return ls, err
		}
		ls = append(ls, l)
		if a.port == 0 { // one free port for all of them
			port = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		}
	}
	return ls, nil
}

// tcpNetwork is the network of an IP address. It matters for those that stand for all: without a host that is IPv4 and IPv6 at
// once, and 0.0.0.0 and :: are one of them.
func tcpNetwork(host string) string {
	switch ip, err := netip.ParseAddr(host); {
	case err != nil:
		return "tcp"
	case ip.Is4():
		return "tcp4"
	}
	return "tcp6"
}

func (a Address) listenUnix(ctx context.Context) ([]net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "unix", a.path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err := removeStale(ctx, a.path); err != nil {
			return nil, err
		}
		l, err = c.Listen(ctx, "unix", a.path)
	}
	if errors.Is(err, syscall.EINVAL) {
		return nil, fmt.Errorf("%w; the path of a socket has about 100 bytes at most: choose a shorter one", err)
	}
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

// removeStale removes a socket at which nobody listens any more.
func removeStale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s is there and is no socket; choose another path", path)
	}
	ctx, cancel := context.WithTimeout(ctx, staleTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
		return errors.New("another process listens there; stop it or choose another path")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// AnyContext is the context id of a vsock listener that takes clients at all of those that this machine has: VMADDR_CID_ANY, vsock(7).
const AnyContext = 1<<32 - 1

func (a Address) listenVsock(context.Context) ([]net.Listener, error) {
	// Programs of this machine are heard, too, who come to a context id of its own.
	l, err := vsock.ListenContextID(AnyContext, a.port, nil)
	if err != nil {
		return nil, fmt.Errorf("%w; virtual machines and their hosts have vsock, on Linux", err)
	}
	return []net.Listener{l}, nil
}

// inherit takes the sockets that the service manager opened (sd_listen_fds(3)).
func inherit(context.Context) ([]net.Listener, error) {
	all, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	var ls []net.Listener
	for _, l := range all {
		if l != nil { // nil for a file that is no listening socket
			ls = append(ls, l)
		}
	}
	if len(ls) == 0 {
		return nil, errors.New("no socket was passed on: it needs a socket unit, which sets LISTEN_FDS")
	}
	return ls, nil
}

// notHere is listening at standard input.
func notHere(context.Context) ([]net.Listener, error) {
	return nil, errors.New("standard input has one client, and is no place to listen at")
}

// Stdin takes the client that is on standard input, as a program has it that inetd or the client itself started.
func Stdin() (net.Conn, error) {
	conn, err := net.FileConn(os.Stdin)
	if err != nil {
		return nil, fmt.Errorf("standard input is no connected socket: %w", err)
	}
	return conn, nil
}
