package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// sharedMemory is where Linux has files in memory that any user may make.
const sharedMemory = "/dev/shm"

// memoryDir is a directory for this user's files in memory, which it makes.
func memoryDir() (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(sharedMemory, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		return "", fmt.Errorf("%s is no tmpfs: mount one there, or name a file on one", sharedMemory)
	}
	dir := filepath.Join(sharedMemory, "dnbd-"+strconv.Itoa(os.Geteuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	// Whoever was here first could read what is written, or have it go elsewhere.
	owner, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) != os.Geteuid() || !fi.IsDir() || fi.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s is not a directory of this user's alone: remove it", dir)
	}
	return dir, nil
}
