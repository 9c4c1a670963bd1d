//go:build linux

package main

import (
	"context"
	"net"
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
	return n.attachWith(ctx, host, "--iface", "eth0", "dnbd://239.0.0.1/"+imageName)
}

// attachUnicast attaches the image from all servers over NBD alone.
func (n *network) attachUnicast(ctx context.Context, host string) (*attached, error) {
	var args []string
	for _, s := range n.Servers() {
		args = append(args, "--unicast", net.JoinHostPort(n.Addr(s).String(), dnbdPort))
	}
	return n.attachWith(ctx, host, append(args, imageName)...)
}

// attachWith attaches on a host what the arguments name.
func (n *network) attachWith(ctx context.Context, host string, args ...string) (*attached, error) {
	path := filepath.Join(n.rig.dir, "dnbd-"+host)
	p, err := n.start(ctx, host, n.rig.dnbd, append(append([]string{"attach", "--foreground", "--driver", "fuse"}, args...), path)...)
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
