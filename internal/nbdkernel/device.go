//go:build linux

package nbdkernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Device is a device of the driver as sysfs shows it.
type Device struct {
	// Index is N of /dev/nbdN.
	Index int
	// Size is its length in bytes; 0 when it is not connected.
	Size int64
	// PID is the process that connected it, which may have ended since; 0 when it is not connected.
	PID int
	// Backend is what that process called it; empty when it did not, or with a kernel before 5.14.
	Backend string
	// Connections is how many it has, dead or alive.
	Connections int
}

// Path is the device's file.
func (d Device) Path() string { return name(d.Index) }

// Connected says whether somebody uses the device.
func (d Device) Connected() bool { return d.PID != 0 }

// Load is what a device has to do.
type Load struct {
	// Reads and Writes are the requests that were completed, failed ones too.
	Reads, Writes uint64
	// ReadBytes and WrittenBytes are what these moved.
	ReadBytes, WrittenBytes uint64
	// Outstanding are the requests that were not completed.
	Outstanding uint64
}

// sysfs is where the kernel shows devices, those of blocks in the directory block.
const sysfs = "/sys"

// sector is sysfs' unit of sizes, in bytes.
const sector = 512

// Index returns N of a path /dev/nbdN, and whether path is one.
func Index(path string) (int, bool) {
	number, ok := strings.CutPrefix(path, "/dev/nbd")
	n, err := strconv.Atoi(number)
	return n, ok && err == nil && n >= 0 && strconv.Itoa(n) == number
}

// Devices returns all devices that there are.
func Devices() ([]Device, error) {
	dirs, err := filepath.Glob(sysfs + "/block/nbd[0-9]*")
	if err != nil {
		return nil, err
	}
	var found []Device
	for _, dir := range dirs {
		index, ok := Index("/dev/" + filepath.Base(dir))
		if !ok {
			continue
		}
		d, err := Look(index)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		found = append(found, d)
	}
	return found, nil
}

// Look returns device index. The error wraps fs.ErrNotExist when there is none.
func Look(index int) (Device, error) { return look(os.DirFS(sysfs), index) }

// Look is the function of that name, also when /sys is no longer where it was.
func (c *Control) Look(index int) (Device, error) { return look(c.sys.FS(), index) }

func look(sys fs.FS, index int) (Device, error) {
	d := Device{Index: index}
	dir := d.dir()
	sectors, err := number(sys, path.Join(dir, "size"))
	if err != nil {
		return d, err
	}
	d.Size = int64(sectors) * sector
	// The files that follow are there while the device is connected.
	if pid, err := number(sys, path.Join(dir, "pid")); err == nil {
		d.PID = int(pid)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	if backend, err := fs.ReadFile(sys, path.Join(dir, "backend")); err == nil {
		d.Backend = strings.TrimSuffix(string(backend), "\n")
	}
	queues, err := fs.Glob(sys, path.Join(dir, "mq", "[0-9]*"))
	d.Connections = len(queues)
	return d, err
}

// dir is the device's directory in sysfs.
func (d Device) dir() string { return path.Join("block", path.Base(d.Path())) }

// Load returns what device index has done since it was made, and has to do.
func (c *Control) Load(index int) (Load, error) {
	file := path.Join(Device{Index: index}.dir(), "stat")
	b, err := fs.ReadFile(c.sys.FS(), file)
	if err != nil {
		return Load{}, err
	}
	// Documentation/block/stat.rst; sectors are of 512 bytes whatever the device's are.
	var v [9]uint64
	fields := strings.Fields(string(b))
	if len(fields) < len(v) {
		return Load{}, fmt.Errorf("%s has %d numbers", file, len(fields))
	}
	for i := range v {
		if v[i], err = strconv.ParseUint(fields[i], 10, 64); err != nil {
			return Load{}, fmt.Errorf("%s: %w", file, err)
		}
	}
	return Load{Reads: v[0], ReadBytes: v[2] * sector, Writes: v[4], WrittenBytes: v[6] * sector, Outstanding: v[8]}, nil
}

// LimitRequests makes the kernel split requests that are larger than this many bytes.
func (d Device) LimitRequests(most int64) error {
	file := path.Join(d.dir(), "queue", "max_sectors_kb")
	now, err := number(os.DirFS(sysfs), file)
	if err != nil || int64(now)<<10 <= most {
		return err
	}
	if most < 4<<10 {
		return fmt.Errorf("%s cannot be limited to requests of %d bytes, 4096 are the least", d.Path(), most)
	}
	return os.WriteFile(path.Join(sysfs, file), []byte(strconv.FormatInt(most>>10, 10)), 0)
}

// SetReadAhead sets how many bytes the kernel reads ahead of programs that read sequentially.
func (d Device) SetReadAhead(n int64) error {
	return os.WriteFile(path.Join(sysfs, d.dir(), "queue", "read_ahead_kb"), []byte(strconv.FormatInt(n>>10, 10)), 0)
}

// number reads a file with one number.
func number(sys fs.FS, file string) (uint64, error) {
	b, err := fs.ReadFile(sys, file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}
