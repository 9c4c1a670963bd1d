//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// process is a dnbd on a host.
type process struct {
	name    string
	cmd     *exec.Cmd
	done    chan struct{}
	failure error // once done is closed

	mu  sync.Mutex // guards out
	out bytes.Buffer
}

// maxSaid bounds what is kept of a process's output: the beginning.
const maxSaid = 1 << 20

func (p *process) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if room := maxSaid - p.out.Len(); room > 0 {
		p.out.Write(text[:min(len(text), room)])
	}
	return len(text), nil
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start starts dnbd on a host.
func (b *bath) start(host string, args ...string) (*process, error) {
	p := &process{name: host, done: make(chan struct{})}
	p.cmd = b.lab.Command(context.Background(), host, b.program, args...)
	p.cmd.Env = append(os.Environ(), "DNBD_RUNDIR="+filepath.Join(b.dir, "run"))
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start dnbd on %s: %w", host, err)
	}
	go func() {
		defer close(p.done)
		p.failure = p.cmd.Wait()
	}()
	return p, nil
}

// resident starts a process that stays: a server, or on c1 a client with a socket for readers.
func (b *bath) resident(host string) (*process, error) {
	if host[0] == 's' {
		return b.start(host, "serve", "--status", "127.0.0.1:7777", filepath.Join(b.dir, imageName))
	}
	return b.start(host, "attach", "--foreground", "--driver", "socket", "--socket", filepath.Join(b.dir, host+".sock"),
		"--cache-size", "8M", imageName)
}

// kill ends the process as a crash does, if it has not ended, and waits for it.
func (p *process) kill() {
	p.cmd.Process.Kill() // it may have ended meanwhile
	<-p.done
}

// holding is what a process holds.
type holding struct {
	descriptors, goroutines, threads int
	memory                           int64 // resident, in KiB
}

func (h holding) String() string {
	return fmt.Sprintf("%d descriptors, %d goroutines, %d threads, %.1f MiB", h.descriptors, h.goroutines, h.threads, float64(h.memory)/1024)
}

// Room for what is not a leak: a connection that is about to be closed, threads that Go keeps for system calls, and the collector's
// garbage.
const (
	spareDescriptors = 2
	spareGoroutines  = 4
	spareThreads     = 6
	spareMemory      = 48 << 10 // KiB
)

// exceeds says what h has too much of.
func (h holding) exceeds(before holding) error {
	switch {
	case h.descriptors > before.descriptors+spareDescriptors:
		return fmt.Errorf("descriptors leak: %v, then %v", before, h)
	case h.goroutines > before.goroutines+spareGoroutines:
		return fmt.Errorf("goroutines leak: %v, then %v", before, h)
	case h.threads > before.threads+spareThreads:
		return fmt.Errorf("threads leak: %v, then %v", before, h)
	case h.memory > before.memory*3/2+spareMemory:
		return fmt.Errorf("memory leaks: %v, then %v", before, h)
	}
	return nil
}

// holds looks at what the process holds, and ends it: Go tells its goroutines when it dies of SIGQUIT.
func (p *process) holds() (h holding, err error) {
	select {
	case <-p.done:
		return h, fmt.Errorf("%s has ended: %v: %s", p.name, p.failure, p.said())
	default:
	}
	proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	open, err := os.ReadDir(proc + "fd")
	if err != nil {
		return h, err
	}
	h.descriptors = len(open)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		return h, err
	}
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case fields[0] == "Threads:":
			h.threads, err = strconv.Atoi(fields[1])
		case fields[0] == "VmRSS:":
			h.memory, err = strconv.ParseInt(fields[1], 10, 64)
		}
		if err != nil {
			return h, fmt.Errorf("%sstatus: %q: %w", proc, line, err)
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		return h, err
	}
	<-p.done
	if h.goroutines = strings.Count(p.said(), "\ngoroutine "); h.goroutines == 0 {
		return h, fmt.Errorf("%s does not tell its goroutines: %s", p.name, p.said())
	}
	return h, nil
}
