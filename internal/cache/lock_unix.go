//go:build unix

package cache

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lock takes f's lock, shared by readers or exclusive, until f is closed. When it is held it fails at once with ErrInUse,
// and says by whom.
func lock(f *os.File, exclusive bool) error {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		if pid := holder(f); pid != 0 {
			return fmt.Errorf("%w by process %d: stop it, or name another file", ErrInUse, pid)
		}
		return fmt.Errorf("%w by another process: stop it, or name another file", ErrInUse)
	case err != nil:
		return fmt.Errorf("lock it: %w", err)
	}
	return nil
}

// holder is the process that has locked f, or 0 when nobody has or the system does not tell (it does on Linux, for
// processes of this pid namespace).
func holder(f *os.File) int {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	dev := uint64(st.Dev)
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(dev), unix.Minor(dev), st.Ino)
	// 3: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) > 5 && f[1] == "FLOCK" && f[5] == file {
			pid, _ := strconv.Atoi(f[4])
			return pid
		}
	}
	return 0
}
