//go:build unix

package flock

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Lock takes f's lock, shared by readers or exclusive, until f is closed. When others hold it it fails at once with a *HeldError.
func Lock(f *os.File, exclusive bool) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return &HeldError{PID: Holder(f)}
	case err != nil:
		return fmt.Errorf("lock it: %w", err)
	}
	return nil
}

// Wait takes f's lock exclusively, until f is closed, as soon as nobody else has it.
func Wait(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("lock it: %w", err)
		}
		return nil
	}
}

// Holder is the process that has locked f, or 0 when nobody has or the system does not tell. Linux does, for processes of this
// pid namespace: proc_locks(5).
func Holder(f *os.File) int {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	dev := uint64(st.Dev)
	inode := fmt.Sprintf("%02x:%02x:%d", unix.Major(dev), unix.Minor(dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		// 3: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF
		if field := strings.Fields(line); len(field) > 5 && field[1] == "FLOCK" && field[5] == inode {
			pid, _ := strconv.Atoi(field[4])
			return pid
		}
	}
	return 0
}
