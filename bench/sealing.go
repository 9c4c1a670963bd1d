//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// sealing is what a group key costs.
var sealing = scenario{
	name:  "sealing",
	title: "a group with a key",
	about: "One client copies the image to nowhere from a server that has sent it before, in turns without a key and with one. *Unshaped*, " +
		"nothing but the processors, which server and client share, sets the limit: each of the two computes AES-256-GCM over every byte. " +
		"*At 1 Gbit/s* the port of the server is shaped to that, and what counts is that a sealed datagram holds 45 bytes less.",
	run:     runSealing,
	timeout: 6 * time.Minute,
}

func runSealing(ctx context.Context, r *rig, s *section) error {
	key := filepath.Join(r.dir, "group.key")
	if err := os.RemoveAll(key); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, r.dnbd, "key", "new", key).CombinedOutput(); err != nil {
		return fmt.Errorf("dnbd key new: %w: %s", err, out)
	}
	for _, at := range []struct {
		name string
		rate int64
		size int64
		must limit
	}{
		{"unshaped", 0, int64(r.either(2048, 256) * mib), atLeast(0.8, 0.95)},
		{"at 1 Gbit/s", 1e9, int64(r.either(512, 128) * mib), atLeast(0.8, 0.95)},
	} {
		if err := measureSealing(ctx, r, s, at.name, at.rate, at.size, key, at.must); err != nil {
			return err
		}
	}
	return nil
}

// measureSealing copies without and with a key in a network of its own.
func measureSealing(ctx context.Context, r *rig, s *section, name string, rate, size int64, key string, must limit) error {
	path, err := r.image(ctx, size)
	if err != nil {
		return err
	}
	n, err := r.network(lab.Options{Clients: 1, ServerRate: rate})
	if err != nil {
		return err
	}
	defer n.Close()
	withKey := []string{"--group-key", key}
	for range r.either(7, 3) {
		plain, err := n.measureOne(ctx, s, name+", plain", size, r.copyCommand(), func() (*process, error) { return n.serve(ctx, "s1", path) })
		if err != nil {
			return err
		}
		sealed, err := n.measureOne(ctx, s, name+", with a key", size, slices.Concat(r.copyCommand(), withKey),
			func() (*process, error) { return n.serve(ctx, "s1", path, withKey...) })
		if err != nil {
			return err
		}
		s.add(name+": speed with a key ÷ without", "", sealed/plain).must(must)
	}
	return nil
}
