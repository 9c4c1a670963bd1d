package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/internal/control"
)

// forceTime is how long the process of a device may take to release it by force.
const forceTime = 3 * time.Second

// forceDetach ends the attachment of a device that is in use or hung. A process that does not do so itself is killed.
func forceDetach(ctx context.Context, device string) error {
	asked, cancel := context.WithTimeout(ctx, forceTime)
	defer cancel()
	p, err := findAttachment(asked, device)
	var none *noAttachment
	switch {
	case err == nil:
		if err = p.Force(asked); err == nil || asked.Err() == nil {
			return err
		}
		fallthrough
	case !errors.As(err, &none):
		if err := killServer(control.Path(controlName(absolute(device)))); err != nil {
			return err
		}
	}
	return forceClean(ctx, absolute(device))
}

// killServer kills the process that listens at a control socket, and waits until it is gone. The kernel tells which it is even
// if it is stopped.
func killServer(socket string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil // gone
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("find the process at %s: %w", socket, err)
	}
	pidfd, err := unix.PidfdOpen(int(peer.Pid), 0)
	if err != nil {
		return nil // gone
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the process %d, which does not answer: %w", peer.Pid, err)
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(forceTime.Milliseconds()))
	return err
}

// forceClean takes down what a killed process has left of the device at an absolute path, whoever uses it.
func forceClean(ctx context.Context, path string) error {
	limited, cancel := context.WithTimeout(ctx, dyingTime)
	defer cancel()
	found, err := forceCleanDevice(path)
	for err != nil && limited.Err() == nil {
		select {
		case <-limited.Done():
		case <-time.After(dyingLook):
			found, err = forceCleanDevice(path)
		}
	}
	if err == nil && !found {
		return detach(ctx, path) // by the other drivers' rules
	}
	if _, statErr := os.Lstat(control.Path(controlName(path))); statErr == nil {
		err = errors.Join(err, control.Remove(control.Path(controlName(path))))
	}
	return err
}

// forceCleanDevice has each driver that can remove what it finds of its own.
func forceCleanDevice(path string) (found bool, err error) {
	for _, d := range deviceDrivers() {
		if f, can := d.(forcer); can {
			ok, cleanErr := f.ForceClean(path)
			found, err = found || ok, errors.Join(err, cleanErr)
		}
	}
	return found, err
}
