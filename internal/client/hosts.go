package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/wire"
	"github.com/dnbd/dnbd/nbd"
)

const (
	// connectTimeout is how long connecting to an NBD server may take.
	connectTimeout = 5 * time.Second
	// askAgain is the pause before a host is asked again that did not answer.
	askAgain = time.Second
	// maxOffers bounds what a server can make us read of what it offers: as many WELCOMEs as can be numbered.
	maxOffers = 255 * wire.MaxControlSize
)

// dial connects to an export of the server at addr, HOST:PORT. secure is that the server needs TLS.
func (n Network) dial(ctx context.Context, addr, export string, secure bool) (*nbd.Client, netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	config := nbd.DialConfig{Contexts: []string{}}
	if secure || n.TLS != nil {
		config.TLS = &tls.Config{}
		if n.TLS != nil {
			config.TLS = n.TLS.Clone()
		}
		if config.TLS.ServerName == "" {
			config.TLS.ServerName, _, _ = net.SplitHostPort(addr) // it was dialled
		}
	}
	c, err := nbd.NewClient(ctx, conn, export, config)
	return c, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), err
}

// offers asks the server at addr, HOST:PORT, for its images.
func (n Network) offers(ctx context.Context, addr string) (found []mcast.Found, from netip.AddrPort, id uint16, err error) {
	c, from, err := n.dial(ctx, addr, image.OffersExport, false)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("it serves no images of a group, see 'dnbd list nbd://%s'", addr)
	}
	if err != nil {
		return nil, from, 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if c.Size() > maxOffers {
		return nil, from, 0, fmt.Errorf("what it says of its images has %d bytes, %d at most", c.Size(), maxOffers)
	}
	text := make([]byte, c.Size())
	if err := c.ReadAt(ctx, text, 0); err != nil {
		return nil, from, 0, err
	}
	for part := range slices.Chunk(text, wire.MaxControlSize) {
		w, err := wire.ParseWelcome(part)
		if err != nil {
			return nil, from, 0, err
		}
		id = w.Server
		for i := range w.Offers {
			if f, err := mcast.NewFound(from, &w, &w.Offers[i]); err == nil {
				found = append(found, f)
			}
		}
	}
	return found, from, id, nil
}

// findAt is Find for hosts in place of a group.
func findAt(ctx context.Context, n Network, enough func(Discovery) bool) (Discovery, error) {
	type answer struct {
		host  string
		found []mcast.Found
		from  netip.AddrPort
		id    uint16
		err   error
	}
	asking, cancel := context.WithCancel(ctx)
	answers := make(chan answer)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, host := range n.Hosts {
		wg.Go(func() {
			for {
				a := answer{host: host}
				a.found, a.from, a.id, a.err = n.offers(asking, host)
				select {
				case answers <- a:
				case <-asking.Done():
					return
				}
				if a.err == nil {
					return
				}
				select {
				case <-time.After(askAgain):
				case <-asking.Done():
					return
				}
			}
		})
	}
	d := Discovery{Servers: map[netip.AddrPort]uint16{}, Failed: map[string]error{}}
	answered := map[string]bool{}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case a := <-answers:
			answered[a.host] = true
			if a.err != nil {
				d.Failed[a.host] = a.err
				break
			}
			delete(d.Failed, a.host)
			d.Found, d.Servers[a.from] = append(d.Found, a.found...), a.id
		case <-second.C:
		case <-ctx.Done():
			return d, fmt.Errorf("look for images %v: %w", n, ctx.Err())
		}
		d.Complete = len(answered) == len(n.Hosts)
		if snapshot := (Discovery{
			Found: slices.Clone(d.Found), Servers: maps.Clone(d.Servers), Failed: maps.Clone(d.Failed), Complete: d.Complete,
		}); enough(snapshot) {
			return snapshot, nil
		}
	}
}
