//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// lossPeers is loss beside the tools that copy files by multicast.
var lossPeers = scenario{
	name:  "losspeers",
	title: "8 clients that each lose 1 %, beside udpcast and UFTP",
	about: "As before, with 1 % lost on the way to each client. *Time* is from when the programs start that fetch until the last of the eight " +
		"has the image. udpcast sends with forward error correction, which is faster here than without; UFTP sends at a fixed rate just below the port's, " +
		"which loses less than its congestion control, to receivers that run already and write to memory (tmpfs); its time is that of its sender.",
	run:     runLossPeers,
	timeout: 6 * time.Minute,
}

func runLossPeers(ctx context.Context, r *rig, s *section) error {
	size := int64(r.either(128, 32) * mib)
	path, err := r.image(ctx, size)
	if err != nil {
		return err
	}
	n, err := r.network(lab.Options{Clients: 8, ServerRate: 200e6})
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.GSO("s1", false); err != nil {
		return err
	}
	for _, host := range n.Clients() {
		if err := n.Loss(host, 1); err != nil {
			return err
		}
	}
	for range r.either(5, 1) {
		ours, err := n.served(ctx, n.Clients(), 0, path)
		if err != nil {
			return fmt.Errorf("dnbd: %w", err)
		}
		cast, err := n.udpcast(ctx, n.Clients(), path, "198m", "--fec", "8x8/128")
		if err != nil {
			return fmt.Errorf("udpcast: %w", err)
		}
		ftp, err := n.uftp(ctx, n.Clients(), path, "196000")
		if err != nil {
			return fmt.Errorf("uftp: %w", err)
		}
		for _, f := range []struct {
			name string
			fetched
		}{{"dnbd", ours}, {"udpcast", cast}, {"UFTP", ftp}} {
			s.add("1 % loss, "+f.name+": time", "s", f.slowest()).bar("torn " + f.name)
			s.add("1 % loss, "+f.name+": port ÷ image", "", ratio(f.port, size))
		}
		s.add("1 % loss: time ÷ udpcast's", "", ours.slowest()/cast.slowest()).must(atMost(0.9, 0.5))
		s.add("1 % loss: time ÷ UFTP's", "", ours.slowest()/ftp.slowest()).must(atMost(0.9, 0.5))
	}
	return nil
}

// uftp sends the file to all of the hosts at once with UFTP, at so many kbit/s. Its receivers are started before.
//
// It is tuned: packets as large as the path takes, and a round trip estimate for a local network, from which it takes its pauses.
func (n *network) uftp(ctx context.Context, hosts []string, path, rate string) (f fetched, err error) {
	const group, private = "239.0.0.10", "239.0.0.11"
	dir, err := os.MkdirTemp("/dev/shm", "dnbd-bench-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	for _, host := range hosts {
		to := filepath.Join(dir, host)
		if err := os.Mkdir(to, 0o755); err != nil {
			return f, err
		}
		p, err := n.start(ctx, host, "uftpd", "-d", "-t", "-I", "eth0", "-M", group, "-D", to, "-L", "/dev/null")
		if err != nil {
			return f, err
		}
		defer p.stop()
		if err := n.AwaitMember(ctx, host, netip.MustParseAddr(group)); err != nil {
			return f, err
		}
	}
	first, err := n.TxBytes("s1")
	if err != nil {
		return f, err
	}
	sender, err := n.start(ctx, "s1", "uftp", "-I", "eth0", "-M", group, "-P", private, "-R", rate, "-b", "1440",
		"-r", "0.02:0.01:0.5", "-x", "1", path)
	if err != nil {
		return f, err
	}
	err = n.finish(ctx, func() {}, []*process{sender}, first, &f)
	return f, err
}
