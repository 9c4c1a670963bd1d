package ownroot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// shared are the kernel's file systems and those in memory, which stay those of the machine; what is mounted in them, too, where
// that is true, as /dev/shm is.
var shared = map[string]bool{"dev": true, "proc": false, "run": false, "sys": false}

// Enter gives the calling thread, which has to be locked to its goroutine, and the processes that it starts, a root of their own.
// When it fails the thread is good for nothing any more.
func Enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	// What others mount later is not kept busy here, and what is mounted here nobody sees.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts apart: %w", err)
	}
	dir, err := os.MkdirTemp("/run", "dnbd-root-")
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return errors.Join(fmt.Errorf("mount a tmpfs at %s: %w", dir, err), os.Remove(dir))
	}
	if err := errors.Join(share(dir), copyTree("/etc", filepath.Join(dir, "etc"))); err != nil {
		return errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir))
	}
	if err := change(dir); err != nil {
		return errors.Join(fmt.Errorf("make %s the root: %w", dir, err), unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir))
	}
	return os.Remove(dir) // nothing is mounted there any more
}

// share makes the shared file systems be below dir, too.
func share(dir string) error {
	for name, below := range shared {
		at := filepath.Join(dir, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		flags := uintptr(unix.MS_BIND)
		if below {
			flags |= unix.MS_REC
		}
		if err := unix.Mount("/"+name, at, "", flags, ""); err != nil {
			return fmt.Errorf("mount /%s at %s: %w", name, at, err)
		}
	}
	return nil
}

// change makes dir, where something is mounted, the root.
func change(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return err
	}
	err := unix.PivotRoot(".", ".")
	if err == nil {
		err = unix.Unmount(".", unix.MNT_DETACH) // the old one, which is on top now
	} else if errors.Is(err, unix.EINVAL) {
		// That of an initramfs cannot be taken away. It can be covered.
		if err = unix.Mount(".", "/", "", unix.MS_MOVE, ""); err == nil {
			err = unix.Chroot(".")
		}
	}
	return errors.Join(err, unix.Chdir("/"))
}

// copyTree copies directories, files and symbolic links, which nobody but their owner may read then if it was so before.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // there is none, or it has just gone
		} else if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		at := filepath.Join(to, path[len(from):])
		switch d.Type() {
		case fs.ModeDir:
			return os.Mkdir(at, info.Mode().Perm()|0o700)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, at)
		case 0:
			return copyFile(path, at, info.Mode().Perm())
		}
		return nil
	})
}

// copyFile copies a file.
func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
