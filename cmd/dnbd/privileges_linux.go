package main

import (
	"fmt"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a process needs as long as it serves a socket: files that were made for it, whoever owns them; large socket buffers; memory that
// stays locked. One that serves a device also detaches it, and looks who has it open.
var (
	socketCapabilities = []int{unix.CAP_DAC_OVERRIDE, unix.CAP_NET_ADMIN, unix.CAP_IPC_LOCK}
	deviceCapabilities = append([]int{unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE}, socketCapabilities...)
)

// dropPrivileges gives up for good all capabilities but keep, in every thread: also that of getting them back by running a program.
func dropPrivileges(keep []int) error {
	// Without this the kernel would let programs with a set-user-ID bit have them.
	if _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return fmt.Errorf("set no_new_privs: %w", e)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the first and the second 32 capabilities
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("get capabilities: %w", err)
	}
	if data[0].Permitted|data[1].Permitted == 0 {
		return nil // there are none
	}
	var mask [2]uint32
	for c := range unix.CAP_LAST_CAP + 1 {
		if slices.Contains(keep, c) {
			mask[c/32] |= 1 << (c % 32)
			continue
		}
		// EPERM: we may not; then nor could we get it.
		if _, _, e := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0); e != 0 && e != unix.EINVAL && e != unix.EPERM {
			return fmt.Errorf("drop capability %d: %w", c, e)
		}
	}
	for i := range data {
		data[i].Permitted &= mask[i]
		data[i].Effective &= mask[i]
		data[i].Inheritable &= mask[i]
	}
	header.Pid = 0
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if e != 0 {
		return fmt.Errorf("set capabilities: %w", e)
	}
	return nil
}
