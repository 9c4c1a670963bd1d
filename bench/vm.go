//go:build linux

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
	"github.com/dnbd/dnbd/internal/control"
)

// hall is a network with virtual machines, of which the servers are hosts.
type hall struct {
	*network
	rack *vm.Rack
}

// hall makes a network for virtual machines.
func (r *rig) hall(o lab.Options) (*hall, error) {
	if why := vm.Missing(); why != "" {
		return nil, errors.New("a virtual machine " + why)
	}
	dir := filepath.Join(r.dir, "rack")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	rack, err := vm.NewRack(dir)
	if err != nil {
		return nil, err
	}
	n, err := r.network(o)
	return &hall{n, rack}, err
}

// guest is a virtual machine that is measured. It is to be killed.
type guest struct {
	*vm.Guest
	rig *rig
}

// guest boots a machine with Linux 6.12, which has all drivers, two processors unless o says another number, and what o adds.
func (h *hall) guest(ctx context.Context, host string, o vm.Options) (*guest, error) {
	o.Lab, o.Host, o.CPUs = h.Lab, host, cmp.Or(o.CPUs, 2)
	o.Files = h.rack.Load()
	g, err := h.rack.Start(ctx, vm.Backports, o)
	if err != nil && g != nil {
		return nil, errors.Join(err, g.Kill())
	}
	return &guest{g, h.rig}, err
}

// do runs a program in the guest, and returns what it printed.
func (g *guest) do(ctx context.Context, name string, args ...string) (string, error) {
	if name == "dnbd" || name == "nbd-client" || name == "/load" {
		g.rig.record("guest", name, args)
	}
	out, err := g.Run(ctx, name, args...)
	return strings.TrimSpace(out), err
}

// all runs commands, one after another.
func (g *guest) all(ctx context.Context, commands ...[]string) error {
	for _, c := range commands {
		if _, err := g.do(ctx, c[0], c[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// loadTime is how long one load runs in a guest.
const loadTime = "3s"

// load puts a load on a device for loadTime, and returns megabytes and requests per second.
func (g *guest) load(ctx context.Context, device string, args ...string) (mbs, perSecond float64, err error) {
	out, err := g.do(ctx, "/load", append(append([]string{"-time", loadTime}, args...), device)...)
	if err != nil {
		return 0, 0, err
	}
	var r struct {
		PerSecond float64 `json:"per_second"`
		MBs       float64 `json:"mb_s"`
	}
	err = json.Unmarshal([]byte(out), &r)
	return r.MBs, r.PerSecond, err
}

// attachment is what dnbd status says of the only attachment of the guest. On a busy machine it takes some tries.
func (g *guest) attachment(ctx context.Context) (control.Status, error) {
	var all struct {
		Attachments []control.Status `json:"attachments"`
	}
	err := poll(ctx, "dnbd status", func() (bool, error) {
		out, err := g.Run(ctx, "dnbd", "status", "--json")
		return err == nil && json.Unmarshal([]byte(out), &all) == nil && len(all.Attachments) == 1, ctx.Err()
	})
	if err != nil {
		return control.Status{}, err
	}
	return all.Attachments[0], nil
}

// nbdkit starts a server on s1 with a file of n bytes that can be written to, and returns its URI.
func (h *hall) nbdkit(ctx context.Context, n int64) (p *process, uri string, err error) {
	path, err := h.rig.blank("nbdkit.disk", n)
	if err != nil {
		return nil, "", err
	}
	addr := h.Addr("s1").String()
	// On busy machines a SIGTERM has come out of nowhere.
	p, err = h.start(ctx, "s1", "env", "--block-signal=TERM", "nbdkit", "-f", "-i", addr, "-p", nbdkitPort, "file", path)
	p, err = h.listening(ctx, p, err, nbdkitPort)
	return p, "nbd://" + addr, err
}

// serveImage starts a server of an image of n bytes on s1.
func (h *hall) serveImage(ctx context.Context, n int64) (stop func(), err error) {
	path, err := h.rig.image(ctx, n)
	if err != nil {
		return nil, err
	}
	p, err := h.serve(ctx, "s1", path)
	if err != nil {
		return nil, err
	}
	return p.stop, nil
}

// blank makes a file of n bytes of which none is there yet.
func (r *rig) blank(name string, n int64) (path string, err error) {
	path = filepath.Join(r.dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return "", err
	}
	return path, os.Truncate(path, n)
}

// aspect is one way to measure devices.
type aspect struct {
	label, unit string
	measure     func(ctx context.Context, device string) (float64, error)
}

// sequential measures devices by 256 KiB in order.
func (g *guest) sequential(label string, args ...string) aspect {
	return aspect{label, "MB/s", func(ctx context.Context, device string) (float64, error) {
		mbs, _, err := g.load(ctx, device, append([]string{"-mode", "sequential", "-workers", "2"}, args...)...)
		return mbs, err
	}}
}

// random measures devices by 4 KiB at random, with depth requests at once.
func (g *guest) random(label string, depth int, args ...string) aspect {
	return aspect{label, "per second", func(ctx context.Context, device string) (float64, error) {
		_, n, err := g.load(ctx, device, append([]string{"-mode", "random", "-workers", fmt.Sprint(depth)}, args...)...)
		return n, err
	}}
}

// contender is a device, and what it is called.
type contender struct{ name, device string }

// compare measures ours and theirs in turns, and how much of theirs ours is.
func compare(ctx context.Context, s *section, rounds int, ours, theirs contender, l limit, aspects ...aspect) error {
	for round := range rounds {
		for _, a := range aspects {
			got := map[string]float64{}
			pair := []contender{ours, theirs}
			for i := range pair {
				c := pair[(i+round)%2]
				v, err := a.measure(ctx, c.device)
				if err != nil {
					return fmt.Errorf("%s of %s: %w", a.label, c.name, err)
				}
				got[c.name] = v
			}
			for _, c := range pair {
				s.add(a.label+", "+c.name, a.unit, got[c.name])
			}
			s.add(fmt.Sprintf("%s: %s ÷ %s", a.label, ours.name, theirs.name), "", got[ours.name]/got[theirs.name]).must(l)
		}
	}
	return nil
}

// vmTimeout bounds a scenario. Machines are emulated, so it is generous.
const vmTimeout = 15 * time.Minute
