// Package boot offers machines without a disk what they boot from: boot loaders, a kernel and its first file system, over TFTP and
// HTTP, and tells them so by proxy-DHCP.
//
// Proxy-DHCP (Preboot Execution Environment 2.1, section 2.2) stands beside the DHCP server that a network has: that one gives
// addresses and knows nothing of booting, this one gives none, and answers only machines that ask for something to boot. A
// machine's firmware is sent a boot loader, iPXE or GRUB, by TFTP. iPXE then asks again, says who it is, and is sent a script by
// HTTP, so that it does not load itself for ever.
//
// What is offered is a list of names that is made at the start. A request can choose from it, and nothing else.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
)

// Config says what to offer, and where.
type Config struct {
	// Interface is where machines boot, and where DHCP requests are answered. It may be left out without DHCP.
	Interface Interface
	// Kernel and Initrd are the paths of a Linux kernel and its initramfs. They are read when they are asked for, so that they
	// may be replaced. Without Initrd there is none.
	Kernel, Initrd string
	// CommandLine is the kernel's; see CheckCommandLine.
	CommandLine string
	// Loaders is a folder with boot loaders, of which those that LoaderNames has are offered; empty for none, where machines
	// have iPXE in their firmware.
	Loaders string
	// HTTP and TFTP are the addresses to listen at, as net.Listen takes them. One without a host is that of Interface.
	HTTP, TFTP string
	// DHCP says whether to answer DHCP requests. It takes the UDP ports 67 and 4011 of Interface.
	DHCP bool
	// Log is told who was sent what.
	Log *slog.Logger
}

// Server has its sockets open.
type Server struct {
	log   *slog.Logger
	ifi   Interface
	files files
	http  net.Listener
	tftp  *net.UDPConn
	dhcp  []dhcpSocket
	proxy proxy
}

// Listen checks that all files are there and opens the sockets. Run or Close closes them.
func Listen(ctx context.Context, cfg Config) (_ *Server, err error) {
	s := &Server{log: cfg.Log, ifi: cfg.Interface}
	if s.files, err = offer(cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	var l net.ListenConfig
	if s.http, err = l.Listen(ctx, "tcp", cfg.Interface.address(cfg.HTTP)); err != nil {
		return nil, explain("HTTP", cfg.HTTP, err)
	}
	tftp, err := l.ListenPacket(ctx, "udp", cfg.Interface.address(cfg.TFTP))
	if err != nil {
		return nil, explain("TFTP", cfg.TFTP, err)
	}
	s.tftp = tftp.(*net.UDPConn)
	if !cfg.DHCP {
		return s, nil
	}
	if !cfg.Interface.Addr.IsValid() {
		return nil, errors.New("proxy-DHCP: it needs an interface with an IPv4 address")
	}
	if port := s.TFTP().Port(); port != tftpPort {
		return nil, fmt.Errorf("TFTP at port %d: machines that are told by DHCP ask at port %d; leave one of the two out", port, tftpPort)
	}
	s.proxy = proxy{addr: cfg.Interface.Addr, script: s.ScriptURL(), loaders: s.files.loaders()}
	if s.dhcp, err = listenDHCP(ctx, cfg.Interface); err != nil {
		return nil, err
	}
	return s, nil
}

// tftpPort is where firmware asks: a DHCP answer has no field for another one.
const tftpPort = 69

// explain says what to do about a socket that cannot be had.
func explain(what, address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s at %s: %w: another program serves there; stop it, or choose another address", what, address, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s at %s: %w: ports below 1024 need root, or the capability CAP_NET_BIND_SERVICE", what, address, err)
	}
	return fmt.Errorf("%s at %s: %w", what, address, err)
}

// HTTP returns the address that HTTP is served at.
func (s *Server) HTTP() netip.AddrPort { return s.http.Addr().(*net.TCPAddr).AddrPort() }

// TFTP returns the address that TFTP is served at.
func (s *Server) TFTP() netip.AddrPort { return s.tftp.LocalAddr().(*net.UDPAddr).AddrPort() }

// ScriptURL returns where iPXE finds its script.
func (s *Server) ScriptURL() string {
	at := s.HTTP()
	if at.Addr().IsUnspecified() && s.ifi.Addr.IsValid() {
		at = netip.AddrPortFrom(s.ifi.Addr, at.Port())
	}
	return fmt.Sprintf("http://%s/%s", at, IPXEName)
}

// Names returns what is offered, sorted.
func (s *Server) Names() []string { return s.files.names() }

// Run serves until the context ends, and then returns nil once nothing is sent any more. A transfer by TFTP whose other side has
// gone holds that up for some seconds.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	serve := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	serve(s.serveHTTP)
	serve(s.serveTFTP)
	for _, d := range s.dhcp {
		serve(func(ctx context.Context) error { return s.serveDHCP(ctx, d) })
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// Close closes the sockets of a server that was not run.
func (s *Server) Close() error {
	var all []error
	if s.http != nil {
		all = append(all, s.http.Close())
	}
	if s.tftp != nil {
		all = append(all, s.tftp.Close())
	}
	for _, d := range s.dhcp {
		all = append(all, d.Close())
	}
	return errors.Join(all...)
}

// Interface is a network interface and this machine's IPv4 address there.
type Interface struct {
	Name string
	Addr netip.Addr
}

// FindInterface returns the interface called name, or, if that is empty, the only one that is up and has an IPv4 address.
func FindInterface(name string) (Interface, error) {
	if name != "" {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			return Interface{}, fmt.Errorf("interface %s: %w", name, err)
		}
		i, err := interfaceOf(*ifi)
		if err == nil && !i.Addr.IsValid() {
			err = fmt.Errorf("interface %s has no IPv4 address, which booting by PXE needs; give it one, as by 'ip address add'", name)
		}
		return i, err
	}
	all, err := net.Interfaces()
	if err != nil {
		return Interface{}, fmt.Errorf("list the interfaces: %w", err)
	}
	var found []Interface
	var names []string
	for _, ifi := range all {
		if ifi.Flags&net.FlagUp == 0 || ifi.Flags&net.FlagLoopback != 0 {
			continue
		}
		i, err := interfaceOf(ifi)
		if err != nil {
			return Interface{}, err
		}
		if i.Addr.IsValid() {
			found, names = append(found, i), append(names, i.Name)
		}
	}
	switch len(found) {
	case 0:
		return Interface{}, errors.New("no interface is up and has an IPv4 address, which booting by PXE needs")
	case 1:
		return found[0], nil
	}
	return Interface{}, fmt.Errorf("there are several interfaces with an IPv4 address: name one of %v", names)
}

// interfaceOf looks the IPv4 address of an interface up.
func interfaceOf(ifi net.Interface) (Interface, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return Interface{}, fmt.Errorf("addresses of interface %s: %w", ifi.Name, err)
	}
	i := slices.IndexFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Is4()
	})
	if i < 0 {
		return Interface{Name: ifi.Name}, nil
	}
	return Interface{ifi.Name, netip.MustParsePrefix(addrs[i].String()).Addr()}, nil
}

// address gives an address without a host that of the interface.
func (i Interface) address(s string) string {
	if host, port, err := net.SplitHostPort(s); err == nil && host == "" && i.Addr.IsValid() {
		return net.JoinHostPort(i.Addr.String(), port)
	}
	return s
}

// readable says why a file cannot be offered.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	return err
}
