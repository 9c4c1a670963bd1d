//go:build unix

package file

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockFile takes f's exclusive lock until f is closed. When it is held it fails at once, and says by whom.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		who := "another process"
		if pid := holder(f); pid > 0 {
			who = fmt.Sprintf("process %d", pid)
		}
		return fmt.Errorf("%w by %s, which may write to it: stop it first", ErrInUse, who)
	case err != nil:
		return fmt.Errorf("lock it: %w", err)
	}
	return nil
}

// holder is the process that has locked f, or 0 where the system does not tell. Linux does, for processes of this pid
// namespace: proc_locks(5).
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

// removeOpen takes the name from a file that stays open.
func removeOpen(f *os.File) error { return os.Remove(f.Name()) }
