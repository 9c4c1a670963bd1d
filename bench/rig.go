//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
)

// rig is what the scenarios share.
type rig struct {
	dir   string // for files, removed at the end
	dnbd  string // the program
	quick bool

	commands *[]string // the command lines of the scenario, each once
}

const (
	mib       = 1 << 20
	gib       = 1 << 30
	imageName = "bench"
)

// build compiles dnbd as it is released.
func (r *rig) build(ctx context.Context) error {
	r.dnbd = filepath.Join(r.dir, "dnbd")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", r.dnbd, "./cmd/dnbd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build dnbd: %w: %s", err, out)
	}
	return nil
}

// either returns the first figure, or the second one in a quick run.
func (r *rig) either(full, quick int) int {
	if r.quick {
		return quick
	}
	return full
}

// image returns a file of n random bytes with its sidecar beside it.
func (r *rig) image(ctx context.Context, n int64) (string, error) {
	path := filepath.Join(r.dir, fmt.Sprintf("%dM.img", n/mib))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := fill(path, n); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, r.dnbd, "image", "create", "--name", imageName, path).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("dnbd image create: %w: %s", err, out)
	}
	return path, nil
}

// fill creates a file of n random bytes, which no program can make smaller.
func fill(path string, n int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{}), n); err != nil {
		return err
	}
	return f.Close()
}

// network is a lab and what runs in it.
type network struct {
	*lab.Lab
	rig *rig
}

func (r *rig) network(o lab.Options) (*network, error) {
	l, err := lab.New(o)
	return &network{l, r}, err
}

// start starts a program on a host. It is killed when ctx ends.
func (n *network) start(ctx context.Context, host, program string, args ...string) (*process, error) {
	n.record(host, program, args)
	return start(filepath.Base(program)+" on "+host, n.Command(ctx, host, program, args...))
}

// record keeps a command line for the report. Hosts of a kind are alike.
func (n *network) record(host, program string, args []string) {
	where := "server"
	if strings.HasPrefix(host, "c") {
		where = "client"
	}
	n.rig.record(where, program, args)
}

// record keeps a command line for the report, if the scenario has none like it. The figures in the names of the files that
// processes share are alike.
func (r *rig) record(where, program string, args []string) {
	line := strings.Join(append([]string{filepath.Base(program)}, args...), " ")
	line = where + ": " + strings.ReplaceAll(line, r.dir+"/", "")
	if !slices.Contains(*r.commands, line) {
		*r.commands = append(*r.commands, line)
	}
}

// serve starts a dnbd server on a host, with more flags, and waits until it is found.
func (n *network) serve(ctx context.Context, host, path string, flags ...string) (*process, error) {
	args := append([]string{"serve", "--iface", "eth0", "--id", strings.TrimPrefix(host, "s"), imageName + "=" + path}, flags...)
	p, err := n.start(ctx, host, n.rig.dnbd, args...)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, p.name, func() (bool, error) {
		select {
		case <-p.done:
			return false, p.ended()
		default:
		}
		return strings.Contains(p.out.String(), "\ncontrol "), nil // the last line that it prints before it serves
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// copyCommand is the dnbd client that fetches the image.
func (r *rig) copyCommand() []string {
	return []string{r.dnbd, "copy", "--iface", "eth0", "--json", "dnbd://239.0.0.1/" + imageName, "null:"}
}

// fetched is what it took some clients to fetch an image.
type fetched struct {
	port    int64     // bytes that the port of the server sent
	before  int64     // and those of them before the last client started
	seconds []float64 // each client's, from its start to its end
	cpu     []float64 // each client's, in seconds
}

// slowest is the time of the client that took longest.
func (f fetched) slowest() float64 { return slices.Max(f.seconds) }

// settle is how long after the last client's end the port's bytes are counted, so that what is still queued is.
const settle = 100 * time.Millisecond

// fetch starts a command on each of some hosts, one right after another or with a delay between, and waits for all of them. All are
// killed when one fails. The server is s1.
func (n *network) fetch(ctx context.Context, hosts []string, delay time.Duration, command []string) (f fetched, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel() // which also ends the clients when something fails
	first, err := n.TxBytes("s1")
	if err != nil {
		return f, err
	}
	var clients []*process
	for i, host := range hosts {
		if i > 0 && delay > 0 {
			if err := sleep(ctx, delay); err != nil {
				return f, err
			}
			sent, err := n.TxBytes("s1")
			if err != nil {
				return f, err
			}
			f.before = sent - first
		}
		p, err := n.start(ctx, host, command[0], command[1:]...)
		if err != nil {
			return f, err
		}
		clients = append(clients, p)
	}
	err = n.finish(ctx, cancel, clients, first, &f)
	return f, err
}

// finish waits for clients, which it cancels when one fails, and fills in what they took since the port had sent first.
func (n *network) finish(ctx context.Context, cancel func(), clients []*process, first int64, f *fetched) error {
	var failed error
	for _, p := range clients {
		if err := p.wait(); err != nil && failed == nil {
			failed = err
			cancel()
		}
		f.seconds = append(f.seconds, p.seconds())
		f.cpu = append(f.cpu, p.cpu())
	}
	if failed != nil {
		return failed
	}
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	last, err := n.TxBytes("s1")
	f.port = last - first
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// output runs a program of this machine and returns the first line that it prints.
func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	return string(line), err
}
