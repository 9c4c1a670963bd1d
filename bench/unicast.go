//go:build linux

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/nbd"
)

// disjoint is what a group costs those who share nothing.
var disjoint = scenario{
	name:  "disjoint",
	title: "8 clients read disjoint parts at random",
	about: "The server's port is shaped to 200 Mbit/s. Each of eight clients reads its own eighth of the image once, in a random order, " +
		"requests of 64 KiB and 8 in flight: from its attached socket, or by TCP from nbdkit, with the same reader. The figure is the rate of " +
		"all together over that with nbdkit: what nobody shares is to cost no more than NBD. With *slow ports* what the switch sends to each " +
		"client is shaped to 50 Mbit/s: if everything were multicast all together would get no more than that.",
	run:     runDisjoint,
	timeout: 10 * time.Minute,
}

func runDisjoint(ctx context.Context, r *rig, s *section) error {
	const clients = 8
	size := int64(r.either(512, 256) * mib)
	path, err := r.image(ctx, size)
	if err != nil {
		return err
	}
	for range r.either(3, 1) {
		for _, c := range []struct {
			label string
			rate  int64
		}{{"", 0}, {", slow ports", 50e6}} {
			err := func() error {
				n, err := r.network(lab.Options{Clients: clients, ServerRate: 200e6, ClientRate: c.rate})
				if err != nil {
					return err
				}
				defer n.Close()
				ours, received, err := n.disjointly(ctx, path, size)
				if err != nil {
					return fmt.Errorf("dnbd: %w", err)
				}
				theirs, err := n.disjointlyNBD(ctx, path, size)
				if err != nil {
					return fmt.Errorf("nbdkit: %w", err)
				}
				f := s.add("throughput ÷ NBD's"+c.label, "", theirs.Seconds()/ours.Seconds())
				if c.rate == 0 {
					f.must(atLeast(0.95, 1.0))
				}
				s.add("a client's port ÷ what it reads"+c.label, "", ratio(received, size/clients))
				return nil
			}()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// disjointly lets all clients read their parts from attached sockets. It returns how long that took, and what a client was sent.
func (n *network) disjointly(ctx context.Context, path string, size int64) (took time.Duration, received int64, err error) {
	server, err := n.serve(ctx, "s1", path, "--nbd", ":"+dnbdPort)
	if err != nil {
		return 0, 0, err
	}
	defer server.stop()
	var open []func() (*nbd.Client, error)
	for _, host := range n.Clients() {
		a, err := n.attachSocket(ctx, host)
		if err != nil {
			return 0, 0, err
		}
		defer a.detach()
		open = append(open, func() (*nbd.Client, error) { return nbd.Dial(ctx, "nbd+unix:///?socket="+a.path, nbd.DialConfig{}) })
	}
	first, err := n.RxBytes("c1")
	if err != nil {
		return 0, 0, err
	}
	if took, err = readDisjoint(ctx, open, size); err != nil {
		return 0, 0, err
	}
	last, err := n.RxBytes("c1")
	return took, last - first, err
}

// disjointlyNBD lets all clients read their parts from nbdkit.
func (n *network) disjointlyNBD(ctx context.Context, path string, size int64) (time.Duration, error) {
	server, err := n.nbdkit(ctx, path)
	if err != nil {
		return 0, err
	}
	defer server.stop()
	var open []func() (*nbd.Client, error)
	for _, host := range n.Clients() {
		open = append(open, func() (c *nbd.Client, err error) {
			err = n.Do(host, func() error {
				conn, err := net.Dial("tcp", net.JoinHostPort(n.Addr("s1").String(), nbdkitPort))
				if err == nil {
					c, err = nbd.NewClient(ctx, conn, "", nbd.DialConfig{})
				}
				return err
			})
			return c, err
		})
	}
	took, err := readDisjoint(ctx, open, size)
	if err != nil {
		err = fmt.Errorf("%w (nbdkit: ended %v, %s)", err, server.hasEnded(), server.out.String())
	}
	return took, err
}

// readDisjoint lets each of some connections read its part of size bytes, and returns how long the slowest took.
func readDisjoint(ctx context.Context, open []func() (*nbd.Client, error), size int64) (time.Duration, error) {
	conns := make([]*nbd.Client, len(open))
	for i, dial := range open {
		c, err := dial()
		if err != nil {
			return 0, err
		}
		defer c.Close()
		conns[i] = c
	}
	part := size / int64(len(open))
	began := time.Now()
	errs := make([]error, len(conns))
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() { errs[i] = readAtRandom(ctx, c, int64(i)*part, part) })
	}
	wg.Wait()
	took := time.Since(began)
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return took, nil
}

// readAtRandom reads n bytes from off on, each once, in requests of 64 KiB of which 8 are in flight.
func readAtRandom(ctx context.Context, c *nbd.Client, off, n int64) error {
	const request, depth = 64 << 10, 8
	at := make(chan int64)
	errs := make(chan error, depth)
	var wg sync.WaitGroup
	for range depth {
		wg.Go(func() {
			buf := make([]byte, request)
			var failed error
			for from := range at {
				if failed == nil {
					failed = c.ReadAt(ctx, buf, from)
				}
			}
			errs <- failed
		})
	}
	for _, i := range rand.Perm(int(n / request)) {
		at <- off + int64(i)*request
	}
	close(at)
	wg.Wait()
	for range depth {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// attachSocket attaches the image on a host as a socket.
func (n *network) attachSocket(ctx context.Context, host string) (*attached, error) {
	path := filepath.Join(n.rig.dir, host+".sock")
	p, err := n.start(ctx, host, n.rig.dnbd, "attach", "--foreground", "--iface", "eth0", "--socket", path, "dnbd://239.0.0.1/"+imageName)
	return n.attachedAt(ctx, p, err, path)
}

// broken is what a network costs that drops multicast in silence.
var broken = scenario{
	name:  "broken",
	title: "multicast is silently dropped",
	about: "The server's port is shaped to 200 Mbit/s. *Until reads flow*: of a client that reads blocks at random from its attached socket the " +
		"switch drops all multicast from one moment on; the figure is how long the next read takes. *Throughput*: eight clients that multicast " +
		"does not reach copy the image, over the time that eight nbdcopy take with nbdkit.",
	run:     runBroken,
	timeout: 10 * time.Minute,
}

func runBroken(ctx context.Context, r *rig, s *section) error {
	path, err := r.image(ctx, int64(r.either(128, 32)*mib))
	if err != nil {
		return err
	}
	n, err := r.network(lab.Options{Clients: 8, ServerRate: 200e6})
	if err != nil {
		return err
	}
	defer n.Close()
	for range r.either(5, 2) {
		took, err := n.untilReadsFlow(ctx, path)
		if err != nil {
			return err
		}
		s.add("until reads flow over NBD", "ms", took.Seconds()*1000).must(atMost(1000, 300))
	}
	for range r.either(2, 1) {
		ours, err := n.deafCopies(ctx, path)
		if err != nil {
			return fmt.Errorf("dnbd: %w", err)
		}
		server, err := n.nbdkit(ctx, path)
		if err != nil {
			return err
		}
		theirs, err := n.fetch(ctx, n.Clients(), 0, n.nbdcopyCommand(nbdkitPort))
		server.stop()
		if err != nil {
			return fmt.Errorf("nbdcopy: %w (nbdkit: %s)", err, server.out.String())
		}
		s.add("throughput ÷ NBD's", "", theirs.slowest()/ours.slowest()).must(atLeast(0.9, 1.0))
	}
	return nil
}

// untilReadsFlow cuts a client that reads off from multicast and returns how long its next read takes.
func (n *network) untilReadsFlow(ctx context.Context, path string) (time.Duration, error) {
	server, err := n.serve(ctx, "s1", path, "--nbd", ":"+dnbdPort)
	if err != nil {
		return 0, err
	}
	defer server.stop()
	a, err := n.attachSocket(ctx, "c1")
	if err != nil {
		return 0, err
	}
	defer a.detach()
	c, err := nbd.Dial(ctx, "nbd+unix:///?socket="+a.path, nbd.DialConfig{})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	buf := make([]byte, 64<<10)
	blocks := rand.Perm(int(c.Size() / int64(len(buf))))
	for _, b := range blocks[:20] {
		if err := c.ReadAt(ctx, buf, int64(b)*int64(len(buf))); err != nil {
			return 0, err
		}
	}
	if err := n.Deafen("c1"); err != nil {
		return 0, err
	}
	began := time.Now()
	err = c.ReadAt(ctx, buf, int64(blocks[20])*int64(len(buf)))
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	return took, n.ClearDeafen("c1")
}

// deafCopies lets all clients copy the image while no multicast reaches them.
func (n *network) deafCopies(ctx context.Context, path string) (fetched, error) {
	for _, host := range n.Clients() {
		if err := n.Deafen(host); err != nil {
			return fetched{}, err
		}
	}
	server, err := n.serve(ctx, "s1", path, "--nbd", ":"+dnbdPort)
	if err != nil {
		return fetched{}, err
	}
	defer server.stop()
	f, err := n.fetch(ctx, n.Clients(), 0, n.rig.copyCommand())
	if err != nil {
		return f, err
	}
	for _, host := range n.Clients() {
		if err := n.ClearDeafen(host); err != nil {
			return f, err
		}
	}
	return f, nil
}
