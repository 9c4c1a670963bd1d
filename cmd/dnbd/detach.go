package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/control"
)

// detachCommand is `dnbd detach`.
func detachCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "detach [flags] DEVICE",
		Short: "Take an attached device away again",
		Long: "Take an attached device away again, and wait until its process is gone. DEVICE is its path, the path or URI of its\n" +
			"socket, or the name of its image. A device that is in use is left alone, and its users are named. What a process\n" +
			"that was killed has left behind is cleaned up.\n\n" +
			"With --force a device of driver ublk or nbd goes whoever uses it, and even if it hangs: what is under way fails.",
		Example:           "  dnbd detach /dev/dnbd0\n  dnbd detach debian-12",
		Args:              deviceExpected,
		ValidArgsFunction: completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if force {
				return forceDetach(cmd.Context(), args[0])
			}
			return detach(cmd.Context(), args[0])
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "take the device away from those who use it, too")
	return cmd
}

// deviceExpected is a command's Args that wants one device.
func deviceExpected(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("name one device: its path, or the name of its image; 'dnbd status' lists them")
	}
	return nil
}

// detach ends the attachment of a device and waits until its process is gone.
func detach(ctx context.Context, device string) error {
	p, err := findAttachment(ctx, device)
	var none *noAttachment
	if errors.As(err, &none) {
		cleaned, cleanErr := cleanUp(ctx, device)
		if cleaned || cleanErr != nil {
			return cleanErr
		}
	}
	if err != nil {
		return err
	}
	return p.Detach(ctx)
}

// A process that is being killed holds its device for a moment after its control socket is gone.
const (
	dyingTime = 5 * time.Second
	dyingLook = 20 * time.Millisecond
)

// cleanUp removes what a process that was killed has left of a device, and says whether there was anything.
func cleanUp(ctx context.Context, device string) (bool, error) {
	path := absolute(device)
	ctx, cancel := context.WithTimeout(ctx, dyingTime)
	defer cancel()
	found, err := cleanDevice(path)
	for err != nil && !errors.Is(err, attach.ErrBusy) && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(dyingLook):
			_, err = cleanDevice(path)
		}
	}
	if err != nil {
		return found, err
	}
	if _, err := os.Lstat(control.Path(controlName(path))); err == nil {
		return true, control.Remove(control.Path(controlName(path)))
	}
	return found, nil
}

// cleanDevice has each driver remove what it finds of its own.
func cleanDevice(path string) (found bool, err error) {
	for _, d := range deviceDrivers() {
		ok, cleanErr := d.Clean(path)
		found, err = found || ok, errors.Join(err, cleanErr)
	}
	return found, err
}

// noAttachment says that there is no attachment of a device.
type noAttachment struct {
	device string
	there  []string // the devices that there are
}

func (e *noAttachment) Error() string {
	if len(e.there) == 0 {
		return fmt.Sprintf("%s is not attached, nor is anything else", e.device)
	}
	return fmt.Sprintf("%s is not attached; there are: %s", e.device, strings.Join(e.there, ", "))
}

// findAttachment finds the process that serves a device, which is named by its path, the URI of its socket, or the name or
// id of its image. The error is a *noAttachment when there is none.
func findAttachment(ctx context.Context, device string) (*control.Process, error) {
	processes, _, err := control.List(ctx)
	if err != nil {
		return nil, err
	}
	var byPath, byImage []*control.Process
	var there []string
	for _, p := range processes {
		a := p.Status.Attachment
		switch {
		case p.Err != nil && p.Name == controlName(absolute(device)):
			return nil, p.Err
		case a == nil:
			continue
		case a.Device == absolute(device) || a.URI == device || a.Device == "/dev/"+device:
			byPath = append(byPath, p)
		case a.Image.Name == device || a.Image.ID == device:
			byImage = append(byImage, p)
		}
		there = append(there, a.Device)
	}
	found := byPath
	if len(found) == 0 {
		found = byImage
	}
	switch len(found) {
	case 0:
		return nil, &noAttachment{device, there}
	case 1:
		return found[0], nil
	}
	var devices []string
	for _, p := range found {
		devices = append(devices, p.Status.Attachment.Device)
	}
	return nil, fmt.Errorf("%s is attached several times; name the device: %s", device, strings.Join(devices, ", "))
}

// absolute is a path as attachments are known by.
func absolute(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}

// completeDevices completes the devices that are attached.
func completeDevices(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var devices []string
	if processes, _, err := control.List(cmd.Context()); err == nil && len(args) == 0 {
		for _, p := range processes {
			if a := p.Status.Attachment; a != nil {
				devices = append(devices, a.Device)
			}
		}
	}
	return devices, cobra.ShellCompDirectiveDefault
}
