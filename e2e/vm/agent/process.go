//go:build linux

package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// StartArgs say what to start.
type StartArgs struct {
	Args  []string // the program, looked for in PATH, and its arguments
	Env   []string // besides the agent's own
	Stdin []byte
}

// process is one that was started here.
type process struct {
	mu     sync.Mutex
	more   sync.Cond // of mu; there is more of what follows
	stdout []byte
	stderr []byte
	state  *os.ProcessState // once it has ended
}

// stream is one of the outputs of a process.
type stream struct {
	p  *process
	to *[]byte
}

// Write keeps what a process has written.
func (s stream) Write(b []byte) (int, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	*s.to = append(*s.to, b...)
	s.p.more.Broadcast()
	return len(b), nil
}

// stragglers is how long what a process has started and left with its output is waited for.
const stragglers = time.Second

// Start starts a process, as the first of a group of its own, and returns its number.
func (a *Agent) Start(args StartArgs, pid *int) error {
	if len(args.Args) == 0 {
		return errors.New("start a process: no program is named")
	}
	p := &process{}
	p.more.L = &p.mu
	cmd := exec.Command(args.Args[0], args.Args[1:]...)
	cmd.Env = append(os.Environ(), args.Env...)
	cmd.Stdout, cmd.Stderr = stream{p, &p.stdout}, stream{p, &p.stderr}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = stragglers
	if len(args.Stdin) > 0 {
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() { // ends with the process, which has the other end
			in.Write(args.Stdin)
			in.Close()
		}()
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	*pid = cmd.Process.Pid
	a.mu.Lock()
	a.processes[*pid] = p
	a.mu.Unlock()
	go func() { // ends with the process, and the agent with the machine
		cmd.Wait() // how it ended, its state says
		p.mu.Lock()
		defer p.mu.Unlock()
		p.state = cmd.ProcessState
		p.more.Broadcast()
	}()
	return nil
}

// OutputArgs are a process and how much of its output the host has.
type OutputArgs struct {
	PID            int
	Stdout, Stderr int // bytes
}

// Output is what a process has written besides, and how it has ended.
type Output struct {
	Stdout, Stderr []byte
	Ended          bool
	Code           int    // its exit code; -1 if a signal ended it
	How            string // in words: exit status 1, signal: killed
}

// Output waits until the process has written more, or has ended.
func (a *Agent) Output(args OutputArgs, out *Output) error {
	a.mu.Lock()
	p := a.processes[args.PID]
	a.mu.Unlock()
	if p == nil {
		return fmt.Errorf("process %d was not started here", args.PID)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.state == nil && len(p.stdout) <= args.Stdout && len(p.stderr) <= args.Stderr {
		p.more.Wait()
	}
	out.Stdout, out.Stderr = after(p.stdout, args.Stdout), after(p.stderr, args.Stderr)
	if p.state != nil {
		out.Ended, out.Code, out.How = true, p.state.ExitCode(), p.state.String()
	}
	return nil
}

// after is a copy of what follows the first n bytes.
func after(b []byte, n int) []byte {
	return append([]byte(nil), b[min(n, len(b)):]...)
}
