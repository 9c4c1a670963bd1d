//go:build linux

package main

import (
	"context"
	"os"
	"path/filepath"
)

// attached is a device and the process behind it.
type attached struct {
	*process
	path string
}

// attach attaches the image on a host, as a block device of this machine: files and devices are shared by all hosts.
func (n *network) attach(ctx context.Context, host string) (*attached, error) {
	path := filepath.Join(n.rig.dir, "dnbd-"+host)
	p, err := n.start(ctx, host, n.rig.dnbd, "attach", "--foreground", "--iface", "eth0", "--driver", "fuse",
		"dnbd://239.0.0.1/"+imageName, path)
	return n.attachedAt(ctx, p, err, path)
}

// attachedAt waits until a process that was started has attached.
func (n *network) attachedAt(ctx context.Context, p *process, err error, path string) (*attached, error) {
	if err != nil {
		return nil, err
	}
	err = poll(ctx, p.name+" to attach", func() (bool, error) {
		select {
		case <-p.done:
			return false, p.ended()
		default:
		}
		_, err := os.Stat(path)
		return err == nil, nil
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	return &attached{p, path}, nil
}

// detach ends the process, which takes the device down.
func (a *attached) detach() { a.stop() }
