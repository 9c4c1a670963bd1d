//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// rate is what the server makes of a link by itself.
var rate = scenario{
	name:  "rate",
	title: "the rate that the server finds by itself",
	about: "No rate is set. The switch sends to two clients, which copy the image, at 100 Mbit/s or 1 Gbit/s, and keeps 1.5 MB or 50 ms " +
		"waiting. *First second* is from the first data; *waiting* is the mean of what waits at the switch in the two seconds after it. With " +
		"*a TCP flow* another host sends as much as it can to a client's port of 100 Mbit/s (the kernel's TCP, CUBIC), too; what it has of " +
		"that is counted over ten seconds, three after it began. The client is alone, or another has a port of its own. Segmentation offload is off " +
		"at 100 Mbit/s.",
	run:     runRate,
	timeout: 6 * time.Minute,
}

func runRate(ctx context.Context, r *rig, s *section) error {
	path, err := r.image(ctx, 512*mib)
	if err != nil {
		return err
	}
	for range r.either(5, 1) {
		for _, c := range []struct {
			label string
			bits  int64
		}{{"100 Mbit/s", 100e6}, {"1 Gbit/s", 1e9}} {
			if err := r.findRate(ctx, s, path, c.label, c.bits); err != nil {
				return fmt.Errorf("%s: %w", c.label, err)
			}
		}
		for i, where := range []string{"the link", "one of two clients' ports"} {
			if err := r.shareRate(ctx, s, path, i+1, where); err != nil {
				return fmt.Errorf("beside TCP at %s: %w", where, err)
			}
		}
	}
	return nil
}

// packetsMost is a rate, in bits a second, up to which a machine with two processors forwards single packets; above it trains are forwarded.
const packetsMost = 200e6

// copying is a network whose switch sends to its clients at a rate, and in it a server from which all of them copy. It returns when data
// comes; end stops all.
func (r *rig) copying(ctx context.Context, path string, clients int, bits int64, queue int) (n *network, end func(), err error) {
	n, err = r.network(lab.Options{Servers: 2, Clients: clients, ClientRate: bits})
	if err != nil {
		return nil, nil, err
	}
	stops := []func(){func() { n.Close() }}
	end = func() {
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	}
	err = func() error {
		for _, host := range n.Clients() {
			if err := n.SetDownQueue(host, queue); err != nil {
				return err
			}
		}
		for _, host := range n.Servers() {
			if err := n.GSO(host, bits > packetsMost); err != nil {
				return err
			}
		}
		server, err := n.serve(ctx, "s1", path)
		if err != nil {
			return err
		}
		stops = append(stops, func() { server.stop() })
		stop, err := n.copyOnAll(ctx)
		if err != nil {
			return err
		}
		stops = append(stops, stop)
		return nil
	}()
	if err != nil {
		end()
		return nil, nil, err
	}
	return n, end, nil
}

// copyOnAll starts to copy the image on all clients, and returns when data comes.
func (n *network) copyOnAll(ctx context.Context) (stop func(), err error) {
	var clients []*process
	stop = func() {
		for _, p := range clients {
			p.stop()
		}
	}
	data, err := n.listen("c1", "239.0.0.1:10810")
	if err != nil {
		return nil, err
	}
	var reading sync.WaitGroup
	defer reading.Wait()
	defer data.Close()
	for _, host := range n.Clients() {
		p, err := n.start(ctx, host, n.rig.dnbd, n.rig.copyCommand()[1:]...)
		if err != nil {
			stop()
			return nil, err
		}
		clients = append(clients, p)
	}
	came := make(chan error, 1)
	reading.Go(func() {
		const longest = 1000 // bytes that a server says to a group but data
		b := make([]byte, 2*longest)
		for {
			if n, err := data.Read(b); err != nil || n > longest {
				came <- err
				return
			}
		}
	})
	select {
	case err = <-came:
	case <-clients[0].done:
		err = clients[0].ended()
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("wait for data: %w", err)
	}
	return stop, nil
}

// listen opens a socket on a host that hears a group, as others there may do.
func (n *network) listen(host, group string) (conn *net.UDPConn, err error) {
	err = n.Do(host, func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err = net.ListenMulticastUDP("udp", eth0, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(group)))
		return err
	})
	return conn, err
}

// findRate measures what is used of a link, and what waits.
func (r *rig) findRate(ctx context.Context, s *section, path, label string, bits int64) error {
	n, end, err := r.copying(ctx, path, 2, bits, 1_500_000)
	if err != nil {
		return err
	}
	defer end()
	used := func(d time.Duration) (float64, time.Duration, error) {
		began := time.Now()
		first, err := n.RxBytes("c1")
		if err != nil {
			return 0, 0, err
		}
		waiting, looks := int64(0), int64(0)
		for time.Since(began) < d {
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				return 0, 0, err
			}
			w, err := n.Backlog("c1")
			if err != nil {
				return 0, 0, err
			}
			waiting, looks = waiting+w, looks+1
		}
		last, err := n.RxBytes("c1")
		queue := time.Duration(float64(waiting) / float64(looks) * 8 / float64(bits) * float64(time.Second))
		return float64(last-first) * 8 / time.Since(began).Seconds() / float64(bits), queue, err
	}
	first, _, err := used(time.Second)
	if err != nil {
		return err
	}
	rest, queue, err := used(2 * time.Second)
	if err != nil {
		return err
	}
	s.add(label+": first second ÷ link", "", first).must(atLeast(0.90, 0.97))
	s.add(label+": two seconds after ÷ link", "", rest)
	s.add(label+": waiting", "ms", queue.Seconds()*1000).must(atMost(20, 10))
	return nil
}

// shareRate measures who has what of the first client's port, which is shared with TCP.
func (r *rig) shareRate(ctx context.Context, s *section, path string, clients int, where string) error {
	const bits = 100_000_000
	n, end, err := r.copying(ctx, path, clients, bits, bits/8/20)
	if err != nil {
		return err
	}
	defer end()
	flow, err := n.StartFlow("s2", "c1")
	if err != nil {
		return err
	}
	defer flow.Close()
	if err := sleep(ctx, 3*time.Second); err != nil {
		return err
	}
	first, err := n.RxBytes("c1")
	if err != nil {
		return err
	}
	before, began := flow.Received(), time.Now()
	if err := sleep(ctx, 10*time.Second); err != nil {
		return err
	}
	tcp := float64(flow.Received()-before) * 1514 / 1448 // with headers
	last, err := n.RxBytes("c1")
	if err != nil {
		return err
	}
	link := float64(bits) / 8 * time.Since(began).Seconds()
	s.add("a TCP flow's part of "+where, "", tcp/link).must(atLeast(0.3, 0.5))
	s.add("the group's part of "+where, "", (float64(last-first)-tcp)/link)
	return nil
}
