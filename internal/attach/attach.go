// Package attach gives a block.Device to the machine: as a block device where a driver can make one, or as a socket that
// NBD clients connect to. Each way is a Driver in a package of its own.
package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/dnbd/dnbd/block"
)

// ErrBusy is wrapped by the error of a Close that is refused because somebody uses the attachment.
var ErrBusy = errors.New("in use")

// ErrNothingLeft is wrapped by the error of an Attach with Resume where no dead process has left a device.
var ErrNothingLeft = errors.New("no device is there that has lost its process; attach it anew")

// Driver is one way to attach devices to this machine.
type Driver interface {
	// Name is what users call the driver.
	Name() string
	// Available returns nil, or why the driver cannot be used by this process on this machine.
	Available() error
	// Attach makes dev usable, and writable if it can be written to and flushed, and returns when it is. dev must stay open until the attachment is closed; the driver does not
	// close it. When ctx ends before it is done Attach may give up. After an error nothing is left behind.
	Attach(ctx context.Context, dev block.Device, o Options) (Attachment, error)
}

// Options say how a device is to be attached. What a driver has no use for it ignores.
type Options struct {
	// Device is the path that is to become the block device, such as /dev/dnbd0. Empty means the next free /dev/dnbdN. What
	// exists there and is not a leftover of a dead attachment is never replaced.
	Device string
	// Resume says that Device exists and has lost its process, and is to be taken over, with the same device behind it: what
	// waits for it goes on. A driver whose devices do not outlive their process fails.
	Resume bool
	// Socket is the path of the socket. Empty means one named after Name in the driver's directory.
	Socket string
	// Name is what is attached, for people.
	Name string
	// ID tells the bytes of the device from any others, such as an image's id. A driver with Resume takes over only what was
	// attached with the same.
	ID string
	// Times are the time limits of the device, for drivers that have them. What is 0 is the driver's choice.
	Times Times
	// Log is where the driver reports. nil means nowhere.
	Log *slog.Logger
}

// Attachment is a device that is attached. Its methods may be called from many goroutines at once.
type Attachment interface {
	// Path is what the user mounts or connects to: the block device or the socket.
	Path() string
	// Driver is the name of the driver.
	Driver() string
	// Holders names who uses the attachment: where it is mounted, which processes have it open, which devices are built on
	// it. Without any it is empty.
	Holders() ([]string, error)
	// Close detaches the device and leaves nothing behind. While there are holders it does nothing and returns an error that
	// wraps ErrBusy and names them; it may be called again. After it has succeeded it does nothing and returns nil.
	Close() error
	// Done is closed when the attachment has ended: by Close, or because somebody else has ended it, after which Close is
	// still to be called.
	Done() <-chan struct{}
}

// Auto is the name with which Choose takes the best driver that is available.
const Auto = "auto"

// Choose returns the driver called name or, if that is Auto, the first of drivers that is available; so they are to be
// given best first. why tells the user, a sentence each, which drivers were passed over for what reason, and which was
// taken.
func Choose(name string, drivers []Driver) (chosen Driver, why []string, err error) {
	var names []string
	for _, d := range drivers {
		names = append(names, d.Name())
		if name != Auto && name != d.Name() {
			continue
		}
		reason := d.Available()
		switch {
		case reason == nil:
			return d, append(why, d.Name()+" is used"), nil
		case name != Auto:
			return nil, nil, fmt.Errorf("driver %s cannot be used: %w", name, reason)
		}
		why = append(why, fmt.Sprintf("%s cannot be used: %v", d.Name(), reason))
	}
	if name == Auto {
		return nil, why, fmt.Errorf("no driver can be used: %s", strings.Join(why, "; "))
	}
	return nil, nil, fmt.Errorf("no driver is called %q, there are %s and %s", name, Auto, strings.Join(names, ", "))
}

// NoResume returns the error of a driver whose devices do not outlive their process, when it is to resume path.
func NoResume(driver, path string) error {
	return fmt.Errorf("resume %s: what driver %s attaches ends with its process: %w", path, driver, ErrNothingLeft)
}

// Busy returns the error for an attachment at path that holders use.
func Busy(path string, holders []string) error {
	return fmt.Errorf("detach %s: %w: %s", path, ErrBusy, strings.Join(holders, ", "))
}
