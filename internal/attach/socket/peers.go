package socket

import (
	"net"
	"slices"
	"sync"
)

// peers is a listener that knows who is connected.
type peers struct {
	*net.UnixListener

	mu   sync.Mutex
	open map[*peer]string // names
}

func newPeers(l *net.UnixListener) *peers {
	return &peers{UnixListener: l, open: make(map[*peer]string)}
}

// Accept returns the next connection. Its peer is known until it is closed.
func (p *peers) Accept() (net.Conn, error) {
	conn, err := p.AcceptUnix()
	if err != nil {
		return nil, err
	}
	c := &peer{UnixConn: conn, of: p}
	name := peerName(conn)
	p.mu.Lock()
	p.open[c] = name
	p.mu.Unlock()
	return c, nil
}

// names returns the names of the processes that are connected, each once.
func (p *peers) names() (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.open {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// peer is one connection.
type peer struct {
	*net.UnixConn
	of *peers
}

// Close closes the connection and forgets its peer.
func (c *peer) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.UnixConn.Close()
}
