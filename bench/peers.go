//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Ports of the NBD servers.
const (
	nbdkitPort = "10809"
	qemuPort   = "10811"
	dnbdPort   = "10812"
)

// castTime is many times what udpcast takes where it works.
const castTime = time.Minute

// nbdkit starts an NBD server for the file on s1.
func (n *network) nbdkit(ctx context.Context, path string) (*process, error) {
	addr := n.Addr("s1").String()
	p, err := n.start(ctx, "s1", "nbdkit", "-f", "-r", "-i", addr, "-p", nbdkitPort, "file", path)
	return n.listening(ctx, p, err, nbdkitPort)
}

// qemuNBD starts QEMU's NBD server for the file on s1.
func (n *network) qemuNBD(ctx context.Context, path string) (*process, error) {
	addr := n.Addr("s1").String()
	p, err := n.start(ctx, "s1", "qemu-nbd", "-r", "-f", "raw", "-t", "-e", "16", "-b", addr, "-p", qemuPort, path)
	return n.listening(ctx, p, err, qemuPort)
}

// listening waits until a server that was started listens.
func (n *network) listening(ctx context.Context, p *process, err error, port string) (*process, error) {
	if err != nil {
		return nil, err
	}
	err = poll(ctx, p.name, func() (bool, error) {
		select {
		case <-p.done:
			return false, p.ended()
		default:
		}
		var c net.Conn
		err := n.Do("s1", func() (err error) {
			c, err = net.DialTimeout("tcp", net.JoinHostPort(n.Addr("s1").String(), port), time.Second)
			return err
		})
		if err == nil {
			c.Close()
		}
		return err == nil, nil
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// nbdcopyCommand is the client of both.
func (n *network) nbdcopyCommand(port string) []string {
	return []string{"nbdcopy", "nbd://" + net.JoinHostPort(n.Addr("s1").String(), port), "null:"}
}

// udpcast sends the file to all of the hosts at once. Its receivers must be there when it begins, so it cannot serve one that
// comes later.
//
// It is tuned: full duplex for a network of switches, the sender's own limit just below the port's so that its queue stays short,
// slices as large as it takes for fewer rounds of acknowledgements, no half second of waiting at the end, and invitations
// repeated often because a receiver that missed one would not start. More arguments can be given.
//
// A receiver of it waits for ever at times, when packets are lost. That says nothing of how fast it is, so it may try again once.
func (n *network) udpcast(ctx context.Context, hosts []string, path, rate string, more ...string) (fetched, error) {
	limited, cancel := context.WithTimeout(ctx, castTime)
	defer cancel()
	f, err := n.cast(limited, hosts, path, rate, more)
	if limited.Err() == nil {
		return f, err
	}
	return n.cast(ctx, hosts, path, rate, more)
}

// cast is one try of udpcast.
func (n *network) cast(ctx context.Context, hosts []string, path, rate string, more []string) (fetched, error) {
	sender, err := n.start(ctx, "s1", "udp-sender", append([]string{
		"--nokbd", "--no-progress", "--interface", "eth0",
		"--mcast-rdv-address", "239.0.0.9", "--ttl", "1", "--full-duplex", "--max-bitrate", rate, "--max-slice-size", "1024",
		"--rexmit-hello-interval", "50", "--min-receivers", fmt.Sprint(len(hosts)), "-f", path,
	}, more...)...)
	if err != nil {
		return fetched{}, err
	}
	defer sender.stop()
	return n.fetch(ctx, hosts, 0, []string{
		"udp-receiver", "--nokbd", "--no-progress", "--interface", "eth0",
		"--mcast-rdv-address", "239.0.0.9", "--exit-wait", "1", "-f", "/dev/null",
	})
}
