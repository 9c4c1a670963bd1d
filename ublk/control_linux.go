//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/ublk/internal/uring"
)

// controlPath is the device that disks are managed with.
const controlPath = "/dev/ublk-control"

// Available returns nil if this process can make disks, otherwise why not. It loads the kernel's module where that is missing
// and this process may.
func Available() error {
	c, err := openControl()
	if err != nil {
		return err
	}
	defer c.close()
	features := new(uint64)
	if err := c.do(cmdGetFeatures, anyID, unsafe.Pointer(features), unsafe.Sizeof(*features), 0); err != nil {
		return fmt.Errorf("the kernel's ublk driver is too old, Linux 6.5 or later is needed: %w", err)
	}
	if *features&(flagRecovery|flagReissue) != flagRecovery|flagReissue {
		return errors.New("the kernel's ublk driver cannot recover disks")
	}
	return nil
}

// List returns the disks that there are, whoever made them.
func List() ([]Info, error) {
	nodes, err := filepath.Glob("/sys/class/ublk-char/ublkc*")
	if err != nil || len(nodes) == 0 {
		return nil, err
	}
	c, err := openControl()
	if err != nil {
		return nil, err
	}
	defer c.close()
	var found []Info
	for _, n := range nodes {
		id, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(n), "ublkc"))
		if err != nil {
			return nil, fmt.Errorf("list disks: %w", err)
		}
		i, err := c.info(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		found = append(found, i)
	}
	return found, nil
}

// Get returns what the kernel knows of a disk. The error for one that does not exist wraps os.ErrNotExist.
func Get(id int) (Info, error) {
	c, err := openControl()
	if err != nil {
		return Info{}, err
	}
	defer c.close()
	return c.info(id)
}

// Delete stops and deletes a disk, whoever made it. What waits for it fails. A disk that does not exist is deleted already.
func Delete(id int) error {
	c, err := openControl()
	if err != nil {
		return err
	}
	defer c.close()
	return errors.Join(c.stop(id), c.delete(id))
}

// control is the driver's control device, open.
type control struct {
	file *os.File
	ring *uring.Ring
}

// openControl opens the control device, and loads the module first where that is missing.
func openControl() (*control, error) {
	f, err := os.OpenFile(controlPath, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) && os.Geteuid() == 0 {
		if out, why := exec.Command("modprobe", "ublk_drv").CombinedOutput(); why != nil {
			return nil, fmt.Errorf("the kernel has no ublk driver: load module ublk_drv: %w: %s", why, strings.TrimSpace(string(out)))
		}
		f, err = os.OpenFile(controlPath, os.O_RDWR, 0)
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("it needs root: %w", err)
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("the kernel has no ublk driver, or its module ublk_drv is not loaded: %w", err)
	case err != nil:
		return nil, err
	}
	ring, err := uring.New(1, uring.SQE128)
	switch {
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("io_uring is forbidden, see sysctl kernel.io_uring_disabled: %w", err)
	case errors.Is(err, unix.ENOSYS):
		err = fmt.Errorf("the kernel has no io_uring: %w", err)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &control{file: f, ring: ring}, nil
}

// close releases c. There is nothing that could fail and matter.
func (c *control) close() {
	_ = c.ring.Close()
	_ = c.file.Close()
}

// do carries out a command for the disk id, with a structure of size bytes and a number, and waits for it.
func (c *control) do(op uint32, id int, structure unsafe.Pointer, size uintptr, data uint64) error {
	// The kernel gives up a command whose thread ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command := controlCommand{
		device: uint32(id), queue: noQueue, length: uint16(size), address: uint64(uintptr(structure)), data: data,
	}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&command)), unsafe.Sizeof(command))
	if err := c.ring.Command(int(c.file.Fd()), op, raw, 0); err != nil {
		return err
	}
	for {
		if err := c.ring.Enter(1); err != nil {
			return err
		}
		if done, ok := c.ring.Next(); ok {
			runtime.KeepAlive(structure)
			if done.Result < 0 {
				return unix.Errno(-done.Result)
			}
			return nil
		}
	}
}

// info asks for all that is known of a disk.
func (c *control) info(id int) (Info, error) {
	raw := new(deviceInfo)
	err := c.do(cmdGetInfo, id, unsafe.Pointer(raw), unsafe.Sizeof(*raw), 0)
	if errors.Is(err, unix.ENODEV) {
		err = os.ErrNotExist
	}
	if err != nil {
		return Info{}, fmt.Errorf("ask for disk %d: %w", id, err)
	}
	p, err := c.params(id)
	if err != nil {
		return Info{}, err
	}
	return Info{
		ID: int(raw.id), State: State(raw.state), PID: int(raw.pid), Recoverable: raw.flags&flagRecovery != 0, Tag: raw.tag,
		Queues: int(raw.queues), Depth: int(raw.depth), MaxIO: int(raw.maxIO),
		Size: int64(p.basic.sectors) * sector, BlockSize: 1 << p.basic.logicalShift, ReadOnly: p.basic.attrs&attrReadOnly != 0,
	}, nil
}

// params asks for the parameters of a disk.
func (c *control) params(id int) (*deviceParams, error) {
	p := &deviceParams{length: uint32(unsafe.Sizeof(deviceParams{}))}
	if err := c.do(cmdGetParams, id, unsafe.Pointer(p), unsafe.Sizeof(*p), 0); err != nil {
		return nil, fmt.Errorf("ask for the parameters of disk %d: %w", id, err)
	}
	return p, nil
}

// add makes a disk that is not started, and returns what the kernel has made of it.
func (c *control) add(cfg *Config) (*deviceInfo, error) {
	i := &deviceInfo{
		queues: uint16(cfg.Queues), depth: uint16(cfg.Depth), maxIO: uint32(cfg.MaxIO), id: anyID, flags: flagIoctlEncode, tag: cfg.Tag,
	}
	if cfg.Recover {
		i.flags |= flagRecovery | flagReissue
	}
	if err := c.do(cmdAdd, anyID, unsafe.Pointer(i), unsafe.Sizeof(*i), 0); err != nil {
		return nil, fmt.Errorf("add a disk: %w", err)
	}
	p := new(deviceParams)
	*p = cfg.params()
	p.length = uint32(unsafe.Sizeof(*p))
	if err := c.do(cmdSetParams, int(i.id), unsafe.Pointer(p), unsafe.Sizeof(*p), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("set the parameters of disk %d: %w", i.id, err), c.delete(int(i.id)))
	}
	return i, nil
}

// start lets a disk's users in. The kernel reads its partition table first.
func (c *control) start(id int) error {
	if err := c.do(cmdStart, id, nil, 0, uint64(os.Getpid())); err != nil {
		return fmt.Errorf("start disk %d: %w", id, err)
	}
	return nil
}

// stop keeps a disk's users out, and returns when no request is under way any more. A disk that does not exist is stopped.
func (c *control) stop(id int) error {
	if err := c.do(cmdStop, id, nil, 0, 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("stop disk %d: %w", id, err)
	}
	return nil
}

// delete deletes a disk. It goes when the last who has it open has closed it, for which delete does not wait.
func (c *control) delete(id int) error {
	err := c.do(cmdDeleteNoWait, id, nil, 0, 0)
	if errors.Is(err, unix.EOPNOTSUPP) { // before Linux 6.9
		err = c.do(cmdDelete, id, nil, 0, 0)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete disk %d: %w", id, err)
	}
	return nil
}
