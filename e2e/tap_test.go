//go:build linux

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/e2e/lab"
)

// tap hands each IPv4 packet that a host sends, and with both each that is sent to it, to heard, which one goroutine calls. The
// returned function ends it; the test does at the latest.
func (r *rig) tap(host string, both bool, heard func(ip []byte)) (end func()) {
	r.t.Helper()
	var fd int
	err := r.lab.Do(lab.Switch, func() error {
		port, err := net.InterfaceByName(host)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in the network's order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64*mib),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: port.Index}))
	})
	if err != nil {
		r.t.Fatalf("tap %s: %v", host, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var listener sync.WaitGroup
	listener.Go(func() {
		defer unix.Close(fd)
		buf := make([]byte, 128<<10)
		for ctx.Err() == nil {
			n, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				continue // nothing for a while
			}
			ll, ok := from.(*unix.SockaddrLinklayer)
			if ok && ll.Protocol == unix.ETH_P_IP>>8 && (both || ll.Pkttype != unix.PACKET_OUTGOING) {
				heard(buf[:n])
			}
		}
	})
	end = sync.OnceFunc(func() {
		cancel()
		listener.Wait()
	})
	r.t.Cleanup(end)
	return end
}

// datagramOf returns the UDP datagram in an IPv4 packet and its ports (RFC 791, RFC 768), or nil.
func datagramOf(ip []byte) (data []byte, from, to uint16) {
	if len(ip) < 28 || ip[0] != 0x45 || ip[9] != unix.IPPROTO_UDP {
		return nil, 0, 0
	}
	return ip[28:], binary.BigEndian.Uint16(ip[20:]), binary.BigEndian.Uint16(ip[22:])
}

// replayer sends packets as they are, from a host that did not make them.
type replayer struct {
	raw  *net.IPConn
	sent int
}

func (r *rig) replayer(host string) *replayer {
	r.t.Helper()
	p := &replayer{}
	err := r.lab.Do(host, func() (err error) {
		p.raw, err = net.ListenIP("ip4:255", nil) // IPPROTO_RAW
		return err
	})
	if err != nil {
		r.t.Fatalf("send raw packets from %s: %v", host, err)
	}
	r.t.Cleanup(func() { p.raw.Close() })
	return p
}

// send sends a packet once more. It has no checksum of UDP, which IPv4 allows.
func (p *replayer) send(t *testing.T, ip []byte) {
	copy(ip[26:28], []byte{0, 0})
	if _, err := p.raw.WriteToIP(ip, &net.IPAddr{IP: net.IP(ip[16:20])}); err != nil {
		t.Errorf("replay: %v", err)
		return
	}
	p.sent++
}
