//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// patience is how long a command that sets something up or takes it down may need.
const patience = 30 * time.Second

// do runs a command to its end. It is not stopped by a signal to the demo, so that nothing is left half done.
func do(ctx context.Context, command func(context.Context) *exec.Cmd) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	cmd := command(ctx)
	apart(cmd)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Args[0]), err, out)
	}
	return nil
}

// server is a server that runs.
type server struct {
	cmd  *exec.Cmd
	said bytes.Buffer // on its standard error
}

// startServer starts one. Like do, it is not stopped by a signal to the demo.
func startServer(ctx context.Context, command func(context.Context) *exec.Cmd) (*server, error) {
	s := &server{cmd: command(context.WithoutCancel(ctx))}
	s.cmd.Stderr = &s.said
	apart(s.cmd)
	return s, s.cmd.Start()
}

// stop ends the server, or says how it ended by itself.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("the server: %w: %s", err, &s.said)
	}
	return nil
}

// apart keeps a command from getting the terminal's Ctrl-C along with the demo, which stops it in its own time.
func apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
