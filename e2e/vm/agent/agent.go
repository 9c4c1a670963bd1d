//go:build linux

// Package agent is how a test on the host controls a guest: what the guest's init and the host agree on, and the service in the
// guest. It is net/rpc over a virtio serial port, which works before and without any network.
package agent

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// Port is the name of the serial port.
	Port = "dnbd.agent"
	// Name is that of the service, before the dot of each method.
	Name = "Agent"
	// Modules is the file in the guest with the paths of the modules to load at start, a line each.
	Modules = "/etc/modules"
	// Shell on the kernel's command line asks for a shell on the console.
	Shell = "dnbd.shell"
)

// Agent is the service. Its exported methods are for net/rpc.
type Agent struct {
	handover func(SwitchRootArgs) error

	mu        sync.Mutex
	processes map[int]*process // all that were started, as their last words may be asked for at any time
}

// New returns the service. handover asks the process with number 1 to give the machine to another init.
func New(handover func(SwitchRootArgs) error) *Agent {
	return &Agent{handover: handover, processes: map[int]*process{}}
}

// Nothing is for methods without arguments or results.
type Nothing struct{}

// Hello answers, once the guest is up.
func (a *Agent) Hello(Nothing, *Nothing) error { return nil }

// ReadFile returns the contents of a file.
func (a *Agent) ReadFile(path string, data *[]byte) (err error) {
	*data, err = os.ReadFile(path)
	return err
}

// WriteFileArgs are a file and what it is to hold.
type WriteFileArgs struct {
	Path string
	Data []byte
	Mode os.FileMode
}

// WriteFile makes or replaces a file.
func (a *Agent) WriteFile(args WriteFileArgs, _ *Nothing) error {
	return os.WriteFile(args.Path, args.Data, args.Mode)
}

// SignalArgs are a process of the guest, started here or not, and what to send it.
type SignalArgs struct {
	PID    int
	Signal syscall.Signal
}

// Signal sends a signal.
func (a *Agent) Signal(args SignalArgs, _ *Nothing) error {
	if err := unix.Kill(args.PID, args.Signal); err != nil {
		return fmt.Errorf("send %v to process %d: %w", args.Signal, args.PID, err)
	}
	return nil
}

// SwitchRootArgs are the mount point of what is to be the root, and the program there that is to be its init.
type SwitchRootArgs struct {
	Root string
	Init []string
}

// SwitchRoot gives the machine to another init, as an initramfs does. The agent goes on in the initramfs; the new root is
// /proc/1/root to it.
func (a *Agent) SwitchRoot(args SwitchRootArgs, _ *Nothing) error {
	if len(args.Init) == 0 {
		return errors.New("switch root: no init is named")
	}
	return a.handover(args)
}

// PowerOff switches the machine off. Nobody gets to know whether it succeeds, other than by the machine.
func (a *Agent) PowerOff(Nothing, *Nothing) error {
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
