//go:build linux

package nbdkernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The errors that a caller may tell apart.
var (
	// ErrUnavailable: the kernel has no NBD driver, and it could not be loaded.
	ErrUnavailable = errors.New("the kernel has no NBD driver")
	// ErrTaken: another program uses the device.
	ErrTaken = errors.New("in use by another program")
)

// AnyIndex has Connect choose a device that nobody uses.
const AnyIndex = -1

// Control configures devices. Its methods may be called from many goroutines at once; one waits for the other.
type Control struct {
	conn   *genetlink.Conn
	family genetlink.Family
	// sys and proc are sysfs and procfs. A process that was started in an initramfs does not find them by their paths once the
	// machine has left that for the root that the process serves.
	sys, proc *os.Root
}

// Open connects to the kernel's driver, which it tries to load when it is missing. The error wraps ErrUnavailable when that
// is in vain.
func Open() (*Control, error) {
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	family, err := conn.GetFamily(familyName)
	if errors.Is(err, fs.ErrNotExist) {
		said, loadErr := exec.Command("modprobe", "nbd").CombinedOutput()
		if family, err = conn.GetFamily(familyName); errors.Is(err, fs.ErrNotExist) {
			err = ErrUnavailable
			if loadErr != nil {
				err = fmt.Errorf("%w; modprobe nbd: %w %s", err, loadErr, strings.TrimSpace(string(said)))
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	sys, err := os.OpenRoot(sysfs)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	proc, err := os.OpenRoot("/proc")
	if err != nil {
		return nil, errors.Join(err, sys.Close(), conn.Close())
	}
	return &Control{conn: conn, family: family, sys: sys, proc: proc}, nil
}

// Close gives back what Open has opened. Devices stay as they are.
func (c *Control) Close() error { return errors.Join(c.proc.Close(), c.sys.Close(), c.conn.Close()) }

// Config is how a device is to be. The kernel counts its times in seconds; parts of one count as a whole.
type Config struct {
	// Size is the device's length in bytes. What is beyond the last whole block cannot be reached.
	Size int64
	// BlockSize is the smallest unit of requests in bytes, a power of two from 512 to the size of a page.
	BlockSize int
	// ServerFlags are the transmission flags of the NBD protocol. Several Sockets need CAN_MULTI_CONN.
	ServerFlags uint16
	// ClientFlags are DestroyOnDisconnect and DisconnectOnClose.
	ClientFlags uint64
	// Backend is what sysfs shows of the device (Device.Backend). Reconfigure must give the same. Kernels before 5.14 ignore it.
	Backend string
	// Sockets are the descriptors of connected stream sockets at whose other ends the transmission phase is served. The kernel
	// keeps them open by itself. A device has as many connections as Connect gives it.
	Sockets []int
	Times
}

// Times are the two times of a device that the kernel counts. See the package's comment.
type Times struct {
	// Timeout is how long a request may go unanswered. 0 leaves the kernel's.
	Timeout time.Duration
	// DeadConnection is how long requests wait while no connection is alive. 0 leaves the kernel's.
	DeadConnection time.Duration
}

// seconds are what the kernel counts.
func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

func (t Times) encode(e *netlink.AttributeEncoder) {
	if t.Timeout > 0 {
		e.Uint64(attrTimeout, seconds(t.Timeout))
	}
	if t.DeadConnection > 0 {
		e.Uint64(attrDeadConnTimeout, seconds(t.DeadConnection))
	}
}

func encodeSockets(e *netlink.AttributeEncoder, sockets []int) {
	if len(sockets) == 0 {
		return
	}
	e.Nested(attrSockets, func(list *netlink.AttributeEncoder) error {
		for _, fd := range sockets {
			list.Nested(sockItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(sockFD, uint32(fd))
				return nil
			})
		}
		return nil
	})
}

// Connect makes a device and returns its number N, that of /dev/nbdN: index, or any that is free with AnyIndex. The error
// wraps ErrTaken when somebody uses it.
func (c *Control) Connect(index int, cfg Config) (int, error) {
	if err := cfg.check(); err != nil {
		return 0, fmt.Errorf("connect %s: %w", name(index), err)
	}
	e := netlink.NewAttributeEncoder()
	if index != AnyIndex {
		e.Uint32(attrIndex, uint32(index))
	}
	e.Uint64(attrSize, uint64(cfg.Size))
	e.Uint64(attrBlockSize, uint64(cfg.BlockSize))
	e.Uint64(attrServerFlags, uint64(cfg.ServerFlags))
	if cfg.ClientFlags != 0 {
		e.Uint64(attrClientFlags, cfg.ClientFlags)
	}
	cfg.encode(e)
	if cfg.Backend != "" {
		e.String(attrBackend, cfg.Backend)
	}
	encodeSockets(e, cfg.Sockets)
	// The kernel answers with the device's number instead of an acknowledgement.
	answers, err := c.execute(cmdConnect, netlink.Request, e)
	if errors.Is(err, unix.EBUSY) {
		err = fmt.Errorf("%w: %w", ErrTaken, err)
	}
	if err != nil {
		return 0, fmt.Errorf("connect %s: %w", name(index), err)
	}
	for _, m := range answers {
		d, err := netlink.NewAttributeDecoder(m.Data)
		if err != nil {
			return 0, fmt.Errorf("connect %s: read the kernel's answer: %w", name(index), err)
		}
		for d.Next() {
			if d.Type() == attrIndex {
				n := int(d.Uint32())
				return n, d.Err()
			}
		}
	}
	return 0, fmt.Errorf("connect %s: the kernel's answer has no number", name(index))
}

// check says what is wrong with c.
func (c *Config) check() error {
	switch {
	case c.Size <= 0:
		return fmt.Errorf("a size of %d bytes", c.Size)
	case c.BlockSize < 512 || c.BlockSize > unix.Getpagesize() || c.BlockSize&(c.BlockSize-1) != 0:
		return fmt.Errorf("block size %d is not a power of two from 512 to %d", c.BlockSize, unix.Getpagesize())
	case len(c.Sockets) == 0:
		return errors.New("no socket")
	case len(c.Backend) > maxBackend || strings.ContainsAny(c.Backend, "\x00\n"):
		return fmt.Errorf("backend %.80q is longer than %d bytes, or has more than one line", c.Backend, maxBackend)
	}
	return nil
}

// Reconfigure changes the times of device index, and offers it sockets for its dead connections. backend is what Connect
// was given.
func (c *Control) Reconfigure(index int, backend string, t Times, sockets ...int) error {
	e := netlink.NewAttributeEncoder()
	e.Uint32(attrIndex, uint32(index))
	t.encode(e)
	if backend != "" {
		e.String(attrBackend, backend)
	}
	encodeSockets(e, sockets)
	if _, err := c.execute(cmdReconfigure, netlink.Request|netlink.Acknowledge, e); err != nil {
		return fmt.Errorf("reconfigure %s: %w", name(index), err)
	}
	return nil
}

// Disconnect takes device index down. What is under way, and whatever is asked of it later, fails with EIO.
func (c *Control) Disconnect(index int) error {
	e := netlink.NewAttributeEncoder()
	e.Uint32(attrIndex, uint32(index))
	if _, err := c.execute(cmdDisconnect, netlink.Request|netlink.Acknowledge, e); err != nil {
		return fmt.Errorf("disconnect %s: %w", name(index), err)
	}
	return nil
}

// Status says of each device whether it is connected, by number.
func (c *Control) Status() (map[int]bool, error) {
	answers, err := c.execute(cmdStatus, netlink.Request, netlink.NewAttributeEncoder())
	if err != nil {
		return nil, fmt.Errorf("ask the NBD driver for its devices: %w", err)
	}
	connected := make(map[int]bool)
	for _, m := range answers {
		if err := decodeStatus(m.Data, connected); err != nil {
			return nil, fmt.Errorf("ask the NBD driver for its devices: read the answer: %w", err)
		}
	}
	return connected, nil
}

func decodeStatus(b []byte, connected map[int]bool) error {
	d, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return err
	}
	for d.Next() {
		if d.Type() != attrDeviceList {
			continue
		}
		d.Nested(func(list *netlink.AttributeDecoder) error {
			for list.Next() {
				list.Nested(func(item *netlink.AttributeDecoder) error {
					index, on := -1, false
					for item.Next() {
						switch item.Type() {
						case deviceIndex:
							index = int(item.Uint32())
						case deviceConnected:
							on = item.Uint8() != 0
						}
					}
					if index >= 0 {
						connected[index] = on
					}
					return nil
				})
			}
			return nil
		})
	}
	return d.Err()
}

// execute sends a command and returns the answers.
func (c *Control) execute(command uint8, flags netlink.HeaderFlags, e *netlink.AttributeEncoder) ([]genetlink.Message, error) {
	b, err := e.Encode()
	if err != nil {
		return nil, err
	}
	m := genetlink.Message{Header: genetlink.Header{Command: command, Version: c.family.Version}, Data: b}
	return c.conn.Execute(m, c.family.ID, flags)
}

// name is how people call device index.
func name(index int) string {
	if index == AnyIndex {
		return "an NBD device"
	}
	return fmt.Sprintf("/dev/nbd%d", index)
}

// marker is an unlikely send timeout.
var marker = unix.Timeval{Sec: 86413}

// Mark prepares a socket so that Taken can tell whether the kernel took it.
func Mark(fd int) error {
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &marker); err != nil {
		return fmt.Errorf("mark a socket: %w", err)
	}
	return nil
}

// Taken says whether Reconfigure, called since Mark, took the socket for a dead connection: for a device with a timeout, the
// driver gives the sockets that it takes that timeout for sending. Kernels from 7.1 on do so with those that they ignore, too.
func Taken(fd int) (bool, error) {
	tv, err := unix.GetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO)
	if err != nil {
		return false, fmt.Errorf("look at a socket: %w", err)
	}
	return tv.Sec != marker.Sec, nil
}
