//go:build linux

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for something that takes moments: when it is over the test has failed. It is generous, as the
// machine may be busy.
const patience = 40 * time.Second

// process is a program that runs on a host.
type process struct {
	t        *testing.T
	rig      *rig
	what     string // host and command line
	cmd      *exec.Cmd
	out, err *output
	daemon   bool          // SIGTERM is how it is to end, and no failure
	done     chan struct{} // closed when it has ended
	result   error         // of Wait; read it after done
}

// start starts a program on a host. It ends with the test at the latest.
func (r *rig) start(host, name string, args ...string) *process {
	r.t.Helper()
	p := &process{
		t: r.t, rig: r, cmd: r.command(host, name, args...), out: newOutput(), err: newOutput(), done: make(chan struct{}),
		what: fmt.Sprintf("%s: %s %s", host, filepath.Base(name), strings.Join(args, " ")),
	}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	p.cmd.WaitDelay = time.Second // for what it started and left with its output
	if err := p.cmd.Start(); err != nil {
		r.t.Fatalf("%s: %v", p.what, err)
	}
	go func() {
		p.result = p.cmd.Wait()
		p.out.close()
		p.err.close()
		close(p.done)
	}()
	r.t.Cleanup(func() {
		p.end()
		if r.t.Failed() {
			r.t.Logf("%s\n%s%s", p.what, tail(p.out.String()), tail(p.err.String()))
		}
	})
	return p
}

// tail is the end of a long text.
func tail(s string) string {
	const enough = 4000
	if len(s) > enough {
		return "[…]" + s[len(s)-enough:]
	}
	return s
}

// await waits until the process has written text to stdout or stderr.
func (p *process) await(o *output, text string) {
	p.t.Helper()
	if !o.await(patience, func(s string) bool { return strings.Contains(s, text) }) {
		p.t.Fatalf("%s: did not write %q, but:\n%s%s", p.what, text, p.out, p.err)
	}
}

// signal sends a signal.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%s: send %v: %v", p.what, s, err)
	}
}

// wait waits until the process has ended by itself.
func (p *process) wait() error {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s: still runs:\n%s%s", p.what, p.out, p.err)
	}
	return p.result
}

// succeed waits for the process and returns its stdout.
func (p *process) succeed() string {
	p.t.Helper()
	if err := p.wait(); err != nil {
		p.t.Fatalf("%s: %v:\n%s%s", p.what, err, p.out, p.err)
	}
	return p.out.String()
}

// fail waits for the process, which is to fail with a code, and returns its stderr.
func (p *process) fail(code int) string {
	p.t.Helper()
	if err := p.wait(); p.cmd.ProcessState.ExitCode() != code {
		p.t.Fatalf("%s: ended with %v, want exit code %d:\n%s%s", p.what, err, code, p.out, p.err)
	}
	return p.err.String()
}

// stop ends the process as a user or init would. It is to end well.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		p.t.Errorf("%s: ended with %v after SIGTERM:\n%s%s", p.what, err, p.out, p.err)
	}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.wait()
	p.rig.killed = true
}

// end makes sure that the process has ended.
func (p *process) end() {
	select {
	case <-p.done:
		return
	default:
	}
	p.cmd.Process.Signal(syscall.SIGCONT) // it may have been stopped
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if p.result != nil && p.daemon {
			p.t.Errorf("%s: ended with %v after SIGTERM:\n%s%s", p.what, p.result, p.out, p.err)
		}
	case <-time.After(patience / 2):
		p.cmd.Process.Signal(syscall.SIGQUIT) // the Go runtime says what every goroutine is at
		select {
		case <-p.done:
		case <-time.After(patience / 8):
		}
		p.cmd.Process.Kill()
		select {
		case <-p.done:
		case <-time.After(patience / 8): // it waits for a device of a process that is ended later
		}
		p.t.Errorf("%s: did not end at SIGTERM:\n%s%s", p.what, p.out, p.err)
	}
}
