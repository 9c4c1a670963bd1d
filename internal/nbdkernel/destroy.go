//go:build linux

package nbdkernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// sockDestroy is SOCK_DESTROY of include/uapi/linux/sock_diag.h.
const sockDestroy = 21

// Destroy ends a TCP connection of this machine, whoever has it: the kernel's driver, for one, with a connection whose maker
// is dead. One that is not there is no error. The error wraps errors.ErrUnsupported when the kernel cannot do it
// (CONFIG_INET_DIAG_DESTROY).
func Destroy(local, remote netip.AddrPort) error {
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	m := netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge}, Data: destroyRequest(local, remote),
	}
	_, err = conn.Execute(m)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("end the connection from %v to %v: %w", local, remote, err)
	}
	return nil
}

// destroyRequest is a struct inet_diag_req_v2 of include/uapi/linux/inet_diag.h.
func destroyRequest(local, remote netip.AddrPort) []byte {
	family := byte(unix.AF_INET6)
	if local.Addr().Unmap().Is4() {
		family = unix.AF_INET
	}
	b := []byte{family, unix.IPPROTO_TCP, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, math.MaxUint32) // states: any
	b = binary.BigEndian.AppendUint16(b, local.Port())
	b = binary.BigEndian.AppendUint16(b, remote.Port())
	for _, a := range []netip.Addr{local.Addr().Unmap(), remote.Addr().Unmap()} {
		b = append(append(b, a.AsSlice()...), make([]byte, 16-len(a.AsSlice()))...)
	}
	b = append(b, 0, 0, 0, 0)                                  // interface: any
	return binary.NativeEndian.AppendUint64(b, math.MaxUint64) // cookie: any
}
