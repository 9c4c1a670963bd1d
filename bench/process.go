//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that runs, or ran, on a host.
type process struct {
	cmd     *exec.Cmd
	name    string
	stdin   io.Closer
	out     tail
	began   time.Time
	end     time.Time // once done is closed
	done    chan struct{}
	failure error // once done is closed
}

// grace is how long a process may take to end when it is asked to, before it is killed.
const grace = 5 * time.Second

// start starts cmd. The process is killed when the command's context ends, and the caller sees to it that it does. Its
// standard input stays open and silent: some programs end with it.
func start(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, name: name, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
	cmd.WaitDelay = grace
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.stdin = in
	p.began = time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		p.failure = cmd.Wait()
		p.end = time.Now()
	}()
	return p, nil
}

// wait waits until the process has ended and returns how it failed, if it did, with the last that it said.
func (p *process) wait() error {
	<-p.done
	if p.failure != nil {
		return fmt.Errorf("%s: %w: %s", p.name, p.failure, p.out.String())
	}
	return nil
}

// hasEnded says whether the process has.
func (p *process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// ended is the error of a process that has ended and should not have.
func (p *process) ended() error {
	<-p.done
	return fmt.Errorf("%s ended by itself (%v): %s", p.name, p.cmd.ProcessState, p.out.String())
}

// seconds is how long the process ran. It has ended.
func (p *process) seconds() float64 { return p.end.Sub(p.began).Seconds() }

// cpu is the processor time that the process, which has ended, and its children took, in seconds.
func (p *process) cpu() float64 {
	s := p.cmd.ProcessState
	return (s.UserTime() + s.SystemTime()).Seconds()
}

// stop asks the process to end, kills it if it does not, and waits for it.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended meanwhile
	select {
	case <-p.done:
	case <-time.After(grace):
		p.kill()
	}
	p.stdin.Close()
}

// kill ends the process as a crash does, and waits for it.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// freeze stops the process as a hang does.
func (p *process) freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// cpuSoFar is the processor time that a process that runs has taken, in seconds.
func (p *process) cpuSoFar() (float64, error) { return cpuSoFar(p.cmd.Process.Pid) }

// cpuSoFar is the processor time that a process and its children that have ended have taken, in seconds.
func cpuSoFar(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in brackets, which may have blanks in it; the 14th to 17th are the times (proc(5)).
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 15 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	total := 0
	for _, field := range fields[11:15] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		total += n
	}
	const ticks = 100 // USER_HZ, the same on all architectures
	return float64(total) / ticks, nil
}

// peakMemory is the most memory that a process that runs has had resident, in MiB: its own, and what it maps of files.
func (p *process) peakMemory() (float64, error) { return peakMemory(p.cmd.Process.Pid) }

// peakMemory is that of a process by its number.
func peakMemory(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 64)
			return n / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has ended", pid)
}

// tail keeps the last that was written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	t.buf = t.buf[max(0, len(t.buf)-tailSize):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

// poll calls f until it says true, ends with an error, or ctx ends.
func poll(ctx context.Context, what string, f func() (bool, error)) error {
	const interval = 20 * time.Millisecond
	for tick := time.NewTicker(interval); ; {
		ok, err := f()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
