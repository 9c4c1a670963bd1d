package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lockMemory keeps in memory what the process is made of, and what it uses from now on.
func lockMemory() error {
	// Go reserves much more than it uses: only what is used is to be in memory.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock memory: %w; it takes root, or more of ulimit -l", err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("lock memory: %w", err)
	}
	for line := range strings.Lines(string(maps)) {
		var from, to, inode uint64
		var skip string
		if n, _ := fmt.Sscanf(line, "%x-%x %s %s %s %d", &from, &to, &skip, &skip, &skip, &inode); n < 6 || inode == 0 {
			continue
		}
		// The program itself: what of it was not needed so far may lie on the device.
		if _, _, errno := unix.Syscall(unix.SYS_MLOCK, uintptr(from), uintptr(to-from), 0); errno != 0 {
			return fmt.Errorf("lock the program in memory: %w", errno)
		}
	}
	return nil
}

// stayAlive keeps the process from being what is killed when memory is short.
func stayAlive() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0); err != nil {
		return fmt.Errorf("keep the process alive when memory is short: %w", err)
	}
	return nil
}

// goFirst makes the process one of real time: Linux lets those have half of the memory that it keeps back from others, and without any
// the process could not make a connection anew that others wait for to free some. It does little else.
func goFirst() error {
	priority := int32(1) // the lowest
	err := everyThread(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_RR, uintptr(unsafe.Pointer(&priority)))
	if err != nil {
		return fmt.Errorf("make the process one of real time, which takes CAP_SYS_NICE: %w", err)
	}
	return nil
}

// keptBack is how many bytes of memory Linux keeps back from all but a few.
func keptBack() (int64, error) {
	b, err := os.ReadFile("/proc/sys/vm/min_free_kbytes")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n << 10, err
}

// flushesIO tells the kernel that others free memory by writing to what the process serves. What it allocates does not wait for
// such writes then, and it may write to its own disk though they have used up what may be written in the page cache.
func flushesIO() error {
	err := everyThread(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0)
	if err != nil && !errors.Is(err, unix.EINVAL) { // kernels before 5.6 do not know it
		return fmt.Errorf("tell the kernel that the process serves a device: %w", err)
	}
	return nil
}

// everyThread makes a system call on each thread, for what is a property of a thread and of those that it starts later. The arguments
// beyond the third are zero. What they point to stays where it is during the call.
//
//go:uintptrescapes
func everyThread(call, a, b, c uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(call, a, b, c, 0, 0, 0)
	switch {
	case errno == 0:
		return nil
	case errors.Is(errno, unix.ENOTSUP):
		return errors.New("this dnbd was built with cgo; build it with CGO_ENABLED=0")
	}
	return errno
}
