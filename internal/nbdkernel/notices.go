//go:build linux

package nbdkernel

import (
	"errors"
	"fmt"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Notices tells of connections that die.
type Notices struct {
	conn   *genetlink.Conn
	family uint16
}

// Listen begins to listen to the driver's notices.
func (c *Control) Listen() (*Notices, error) {
	for _, g := range c.family.Groups {
		if g.Name != multicastGroup {
			continue
		}
		conn, err := genetlink.Dial(nil)
		if err != nil {
			return nil, fmt.Errorf("open a netlink socket: %w", err)
		}
		if err := conn.JoinGroup(g.ID); err != nil {
			return nil, errors.Join(fmt.Errorf("listen to the NBD driver: %w", err), conn.Close())
		}
		return &Notices{conn, c.family.ID}, nil
	}
	return nil, errors.New("the NBD driver has no group for notices")
}

// Next waits for the next notice and returns the numbers of the devices of which a connection died; a number may be there
// several times. Without any and without an error notices were lost, and any device may have lost connections. It fails
// when Close was called.
func (n *Notices) Next() ([]int, error) {
	for {
		messages, headers, err := n.conn.Receive()
		if errors.Is(err, unix.ENOBUFS) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("listen to the NBD driver: %w", err)
		}
		var dead []int
		for i, m := range messages {
			if m.Header.Command != cmdLinkDead || uint16(headers[i].Header.Type) != n.family {
				continue
			}
			d, err := netlink.NewAttributeDecoder(m.Data)
			if err != nil {
				return nil, fmt.Errorf("listen to the NBD driver: %w", err)
			}
			for d.Next() {
				if d.Type() == attrIndex {
					dead = append(dead, int(d.Uint32()))
				}
			}
		}
		if len(dead) > 0 {
			return dead, nil
		}
	}
}

// Close ends listening, also a Next under way.
func (n *Notices) Close() error { return n.conn.Close() }
