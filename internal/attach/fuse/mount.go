//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// maxRead is the largest read, and write, that the kernel sends, in bytes: the most that it allows (256 pages).
	maxRead = 1 << 20
	// maxBackground is how many reads the kernel has under way at once. The loop device's are all in the background. With
	// reads of maxRead this bounds the memory of answers to 64 MiB; with reads of 4 KiB it hides a server's distance.
	maxBackground = 64
	// mountType is what the mount table says.
	mountType = "fuse.dnbd"
	// patience is how long a step of the tear-down may wait for reads before they are failed, and before the connection is
	// aborted.
	patience = 2 * time.Second
)

// mount is a mounted disk.
type mount struct {
	dir  string
	disk *disk
	done chan struct{} // closed when the kernel has ended the connection and all reads have returned
}

// mountDisk mounts d on dir, and serves it until it is unmounted.
func mountDisk(d *disk, dir, source string, log *slog.Logger) (*mount, error) {
	// It is mounted here and not by go-fuse, whose descriptor would be inherited by child processes; these would keep the
	// mount alive, and all who wait for it waiting, when this process is gone.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,max_read=%d", fd, maxRead)
	var flags uintptr = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	if !d.writable {
		flags |= unix.MS_RDONLY
	}
	if err := unix.Mount(source, dir, mountType, flags, options); err != nil {
		return nil, errors.Join(fmt.Errorf("mount FUSE on %s: %w", dir, err), unix.Close(fd))
	}
	server, err := fuse.NewServer(d, "/dev/fd/"+strconv.Itoa(fd), &fuse.MountOptions{
		MaxWrite:                 maxRead,
		MaxReadAhead:             maxRead,
		MaxBackground:            maxBackground,
		CongestionThreshold:      maxBackground,
		DisableXAttrs:            true,
		DisableSplice:            true, // there is no file to splice from
		ExplicitDataCacheControl: true,
		ExtraCapabilities:        fuse.CAP_ASYNC_DIO, // without it a loop device has one read under way
		Logger:                   slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve FUSE on %s: %w", dir, err), unix.Unmount(dir, unix.MNT_DETACH))
	}
	m := &mount{dir: dir, disk: d, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		server.Serve()
	}()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("stat %s: %w", dir, err), m.unmount())
	}
	readAhead(uint64(st.Dev))
	return m, nil
}

// readAhead lets the kernel read ahead as far in the file as one request reaches. It serves those who mount the file
// itself; a kernel that does not let us is slower for them, no more.
func readAhead(device uint64) {
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(device), unix.Minor(device))
	_ = os.WriteFile(path, []byte(strconv.Itoa(maxRead>>10)), 0)
}

// unmount unmounts the disk and waits until the last read has returned. It fails with EBUSY while somebody uses the file.
// Once unmounted it does nothing.
func (m *mount) unmount() error {
	err := untilIdle(patience/2, func() error { return unix.Unmount(m.dir, 0) })
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: nothing is mounted there any more
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	m.disk.cancel() // nobody waits for these reads
	<-m.done
	return nil
}

// unstick returns a function to call when a step that may wait for reads is over. If it is not called within patience all
// reads fail, and later the connection is aborted.
func (m *mount) unstick() (over func()) {
	ctx, cancel := context.WithCancel(context.Background())
	fail := time.AfterFunc(patience, m.disk.cancel)
	abort := time.AfterFunc(2*patience, func() {
		if ctx.Err() == nil {
			m.abort()
		}
	})
	return func() { cancel(); fail.Stop(); abort.Stop() }
}

// abort makes the kernel fail all reads, now and later. The disk stays mounted while somebody uses it.
func (m *mount) abort() {
	// A forced unmount begins with just that. /sys/fs/fuse/connections would do too, where it is mounted.
	_ = unix.Unmount(m.dir, unix.MNT_FORCE)
}

// untilIdle calls step until it does not fail with EBUSY, or limit has passed: the kernel lets go of files a little after
// the call that closed them.
func untilIdle(limit time.Duration, step func() error) error {
	end := time.Now().Add(limit)
	err := step()
	for pause := time.Millisecond; errors.Is(err, unix.EBUSY) && time.Now().Before(end); pause = min(2*pause, patience/20) {
		time.Sleep(pause)
		err = step()
	}
	return err
}
