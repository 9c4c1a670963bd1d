//go:build linux

package vm

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dnbd/dnbd/e2e/vm/agent"
)

// Process is one that was started in a guest. Its methods may be called from many goroutines at once.
type Process struct {
	PID int // in the guest

	g    *Guest
	args []string

	mu             sync.Mutex // held while the agent is asked for more
	stdout, stderr []byte
	ended          bool
	code           int
	how            string
}

// killTime bounds the attempt to kill what has run for too long.
const killTime = 10 * time.Second

// ExitError says how a process failed.
type ExitError struct {
	Args   []string // of its command line
	Code   int      // -1 if a signal ended it
	How    string   // in words: exit status 1, signal: killed
	Stdout string
	Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("in the guest: %s: %s: %s%s", strings.Join(e.Args, " "), e.How, tail(e.Stdout), tail(e.Stderr))
}

// tail is the end of a long text.
func tail(s string) string {
	const enough = 4000
	if len(s) > enough {
		return "[…]" + s[len(s)-enough:]
	}
	return s
}

// Run runs a program in the guest until it ends and returns what it wrote to stdout. If it fails the error is an *ExitError. If ctx
// ends first it is killed, and all that it has started with it.
func (g *Guest) Run(ctx context.Context, name string, args ...string) (string, error) {
	return g.RunInput(ctx, nil, name, args...)
}

// RunInput is Run with something on stdin.
func (g *Guest) RunInput(ctx context.Context, stdin []byte, name string, args ...string) (string, error) {
	p, err := g.start(ctx, stdin, append([]string{name}, args...))
	if err != nil {
		return "", err
	}
	out, err := p.Wait(ctx)
	if ctx.Err() != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer cancel()
		g.Signal(late, -p.PID, syscall.SIGKILL) // it may have ended meanwhile, or the guest hangs
	}
	return out, err
}

// Start starts a program in the guest. What is started there ends with the guest at the latest.
func (g *Guest) Start(ctx context.Context, name string, args ...string) (*Process, error) {
	return g.start(ctx, nil, append([]string{name}, args...))
}

func (g *Guest) start(ctx context.Context, stdin []byte, args []string) (*Process, error) {
	p := &Process{g: g, args: args}
	if err := g.call(ctx, "Start", agent.StartArgs{Args: args, Stdin: stdin}, &p.PID); err != nil {
		return nil, fmt.Errorf("in the guest: start %s: %w", strings.Join(args, " "), err)
	}
	return p, nil
}

// Signal sends a signal to a process of the guest, whoever started it; with -pid to a group of processes.
func (g *Guest) Signal(ctx context.Context, pid int, s syscall.Signal) error {
	return g.call(ctx, "Signal", agent.SignalArgs{PID: pid, Signal: s}, &agent.Nothing{})
}

// Wait waits until the process has ended and returns what it wrote to stdout. If it has failed the error is an *ExitError.
func (p *Process) Wait(ctx context.Context) (string, error) {
	if err := p.until(ctx, func() bool { return p.ended }); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.code != 0 {
		return string(p.stdout), &ExitError{Args: p.args, Code: p.code, How: p.how, Stdout: string(p.stdout), Stderr: string(p.stderr)}
	}
	return string(p.stdout), nil
}

// Await waits until the process has written text to stdout or stderr.
func (p *Process) Await(ctx context.Context, text string) error {
	wrote := func() bool {
		return strings.Contains(string(p.stdout), text) || strings.Contains(string(p.stderr), text)
	}
	if err := p.until(ctx, func() bool { return p.ended || wrote() }); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !wrote() {
		return fmt.Errorf("in the guest: %s: ended (%s) and did not write %q, but: %s%s", strings.Join(p.args, " "), p.how, text,
			tail(string(p.stdout)), tail(string(p.stderr)))
	}
	return nil
}

// Signal sends it a signal.
func (p *Process) Signal(ctx context.Context, s syscall.Signal) error {
	return p.g.Signal(ctx, p.PID, s)
}

// until takes what the process writes until enough, which is called with mu held.
func (p *Process) until(ctx context.Context, enough func() bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !enough() {
		var out agent.Output
		args := agent.OutputArgs{PID: p.PID, Stdout: len(p.stdout), Stderr: len(p.stderr)}
		if err := p.g.call(ctx, "Output", args, &out); err != nil {
			return fmt.Errorf("in the guest: wait for %s, which wrote %s%s: %w", strings.Join(p.args, " "),
				tail(string(p.stdout)), tail(string(p.stderr)), err)
		}
		p.stdout, p.stderr = append(p.stdout, out.Stdout...), append(p.stderr, out.Stderr...)
		p.ended, p.code, p.how = out.Ended, out.Code, out.How
	}
	return nil
}

// ReadFile returns what a file of the guest holds.
func (g *Guest) ReadFile(ctx context.Context, path string) (data []byte, err error) {
	err = g.call(ctx, "ReadFile", path, &data)
	return data, err
}

// WriteFile makes or replaces a file of the guest.
func (g *Guest) WriteFile(ctx context.Context, path string, data []byte, mode os.FileMode) error {
	return g.call(ctx, "WriteFile", agent.WriteFileArgs{Path: path, Data: data, Mode: mode}, &agent.Nothing{})
}

// SwitchRoot gives the guest to another init: the program that init names with its arguments, in the file system that is mounted
// at root. The agent goes on in the initramfs, where the new root is /proc/1/root.
func (g *Guest) SwitchRoot(ctx context.Context, root string, init ...string) error {
	return g.call(ctx, "SwitchRoot", agent.SwitchRootArgs{Root: root, Init: init}, &agent.Nothing{})
}
