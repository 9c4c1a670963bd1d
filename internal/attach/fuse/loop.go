//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dnbd/dnbd/internal/attach/sectors"
	"golang.org/x/sys/unix"
)

const (
	// readAheadSectors is how far the kernel reads ahead on the loop device, in sectors: 1 MiB. Streams in pieces of 128 KiB
	// from memory were read at 1.4 GB/s with the default of 128 KiB, 2.1 with 1 MiB, and 1.9 with 4 MiB; from a device that
	// takes 1 ms for each read at 0.18, 0.46 and 1.6. But this is also what is read around a page that a program touches in
	// a mapped file: 1 MiB keeps a link of 100 Mbit/s busy for 80 ms. To read further ahead in streams, and only there, is
	// the business of the device that is attached.
	readAheadSectors = 2048
	// loopTries is how often a free loop device is looked for while others take them at the same time.
	loopTries = 16
)

// loop is the path of a loop device, such as /dev/loop3.
type loop string

// attachLoop connects a free loop device to the file at path, for reading only unless writable.
func attachLoop(path string, writable bool) (loop, error) {
	mode := unix.O_RDONLY
	if writable {
		mode = unix.O_RDWR
	}
	// Not os.Open: it would ask the file whether it can be polled, which is a question to ourselves.
	file, err := unix.Open(path, mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(file)
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer unix.Close(control)

	for range loopTries {
		number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("find a free loop device: %w", err)
		}
		l := loop(fmt.Sprintf("/dev/loop%d", number))
		err = l.configure(file, path, mode)
		if !errors.Is(err, unix.EBUSY) {
			return l, err
		}
	}
	return "", errors.New("find a free loop device: others take them all")
}

// configure connects the loop device to file, which is open in that mode. It fails with EBUSY when somebody was faster.
func (l loop) configure(file int, path string, mode int) error {
	fd, err := unix.Open(string(l), mode|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", l, err)
	}
	defer unix.Close(fd)
	config := unix.LoopConfig{
		Fd: uint32(file),
		// Blocks of 4096 bytes would be a little cheaper, and no file system with smaller ones could be mounted.
		Size: sectors.Sector,
		// Direct, so that the kernel keeps the bytes once, for the loop device, and not for the file too.
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_DIRECT_IO},
	}
	if mode == unix.O_RDONLY {
		config.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], path)
	if err := unix.IoctlLoopConfigure(fd, &config); err != nil {
		return fmt.Errorf("connect %s to %s: %w", l, path, err)
	}
	if err := unix.IoctlSetInt(fd, unix.BLKRASET, readAheadSectors); err != nil {
		return errors.Join(fmt.Errorf("set the read-ahead of %s: %w", l, err), unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0))
	}
	return nil
}

// release disconnects the loop device from its file. It fails with EBUSY, and does nothing, while a file system or another
// device has claimed it. When a process opens it meanwhile, it is disconnected when that closes it.
func (l loop) release() error {
	fd, err := unix.Open(string(l), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("claim %s: %w", l, err)
	}
	err = unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
	if errors.Is(err, unix.ENXIO) {
		err = nil // it is not connected
	}
	if err != nil {
		return errors.Join(fmt.Errorf("disconnect %s: %w", l, err), unix.Close(fd))
	}
	return unix.Close(fd)
}

// file is the path of the file that the loop device is connected to, or empty.
func (l loop) file() string {
	raw, err := os.ReadFile("/sys/block/" + filepath.Base(string(l)) + "/loop/backing_file")
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(raw), "\n")
}

// loopsOf returns the loop devices that are connected to the file at path.
func loopsOf(path string) (found []loop) {
	dirs, _ := filepath.Glob("/sys/block/loop*")
	for _, dir := range dirs {
		if l := loop("/dev/" + filepath.Base(dir)); l.file() == path {
			found = append(found, l)
		}
	}
	return found
}
