package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/ownroot"
)

// How --supervise works: this process starts another one, which has the device, and when that has died the next one, which takes it
// over. Meanwhile whoever reads from the device waits, so nothing that this takes may come from there. Both processes are in
// memory; the program is /proc/self/exe, which the kernel finds though the initramfs that had it is gone; and their root is one of
// their own, so that no name that they look up leads to the device. A service manager that was itself read from the device could
// wait for it before it has started anything.

// Between two processes are restartPause, counted from the start of the first, so that one that dies at once does not keep the machine
// busy, and up to maxRestartPause when they do not get as far as having the device.
const (
	restartPause    = time.Second
	maxRestartPause = time.Minute
)

// supervise is serve in processes of its own, one after the other.
func (o *attachOptions) supervise(cmd *cobra.Command, log *slog.Logger) error {
	if err := o.hold(log); err != nil {
		return err
	}
	// Both are nobody's to kill for their memory: that would be needed again at once.
	if err := stayAlive(); err != nil {
		log.Warn("the process of the device may be killed when memory is short, and started again", "reason", err)
	}
	// Roots are those of threads. The processes are started by this one.
	runtime.LockOSThread()
	if err := ownroot.Enter(); err != nil {
		return fmt.Errorf("--supervise: %w", err)
	}
	pause := restartPause
	for had := false; ; {
		begun := time.Now()
		attached, err := o.attachOnce(cmd, !had)
		switch {
		case err == nil:
			return nil
		case !attached && !had, cmd.Context().Err() != nil:
			return ended(err)
		case attached:
			pause = restartPause
		default:
			pause = min(2*pause, maxRestartPause)
		}
		had, o.resume, o.restart = true, true, false
		log.Warn("the process of the device has ended; starting the next one", "device", o.device, "reason", err)
		select {
		case <-time.After(time.Until(begun.Add(pause))):
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		}
	}
}

// attachOnce starts a process and waits for its end. attached says whether it had the device, which is passed on if somebody is to
// be told.
func (o *attachOptions) attachOnce(cmd *cobra.Command, tell bool) (attached bool, err error) {
	child := exec.Command("/proc/self/exe", o.args("--foreground")...)
	child.Args[0] = os.Args[0] // systemd leaves those alone whose name begins with an @
	child.Stderr = os.Stderr
	out, unhook, err := startUntil(cmd.Context(), child)
	if errors.Is(err, fs.ErrNotExist) { // the loader of shared libraries
		err = fmt.Errorf("%w; this dnbd was built with cgo; build it with CGO_ENABLED=0", err)
	}
	if err != nil {
		return false, fmt.Errorf("start it: %w", err)
	}
	defer unhook()
	device, err := bufio.NewReader(out).ReadString('\n') // one line, or the end
	attached = err == nil
	if attached && tell {
		_, _ = io.WriteString(cmd.OutOrStdout(), device) // the device stays, whether somebody is there to read it or not
	}
	return attached, child.Wait()
}

// ended is the end of a process that failed and has said why, for this one to end in the same way.
func ended(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return silentExit(exit.ExitCode())
	}
	return fmt.Errorf("the process of the device: %w", err)
}
