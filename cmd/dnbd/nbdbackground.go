package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// How nbd-server goes to the background: it starts itself again, with the same command line, in a session of its own. The
// new process says on its standard output, by a note as in background.go, that clients can connect and its process id is
// written, or why not. Then the first process ends, which is what service managers and scripts of old wait for.

// nbdBackgroundVariable tells the process in the background that it is that.
const nbdBackgroundVariable = "DNBD_NBD_SERVER_BACKGROUND"

// defaultPIDFile is where nbd-server writes its process id when it is told nothing, if it can.
const defaultPIDFile = "/var/run/nbd-server.pid"

// inNBDBackground says, once, whether this is the process in the background. Those that it starts are not.
func inNBDBackground() bool {
	is := os.Getenv(nbdBackgroundVariable) != ""
	_ = os.Unsetenv(nbdBackgroundVariable) // fails for no name that is one
	return is
}

// startNBDBackground starts a command line in the background, and returns when it serves.
func startNBDBackground(cmd *cobra.Command, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	child := exec.Command(self) // outlives this process
	child.Args = append([]string{nbdServer}, args...)
	child.Env = append(os.Environ(), nbdBackgroundVariable+"=1")
	child.SysProcAttr = newSession()
	notes, err := child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		return fmt.Errorf("start the process in the background: %w", err)
	}
	defer context.AfterFunc(cmd.Context(), func() {
		_ = terminate(child.Process) // it fails when the process is gone already
	})()
	if _, err = listenTo(notes, cmd.ErrOrStderr()); err == nil {
		return nil
	}
	ended := child.Wait()
	if cmd.Context().Err() != nil {
		return cmd.Context().Err()
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the process in the background ended: %v; start it with -n to see why", ended)
	}
	return err
}

// serveReporting is serve in the background, where the system's log is the only one to tell.
func (s *nbdService) serveReporting(ctx context.Context) error {
	signal.Ignore(syscall.SIGPIPE) // nobody to report to is an error like others
	s.log = slog.New(newConsole(systemLog(), slog.LevelInfo))
	slog.SetDefault(s.log)
	notes, told := json.NewEncoder(os.Stdout), false
	if s.command.PIDFile == "" {
		s.command.PIDFile = defaultPIDFile
	}
	err := s.leaveDirectory()
	if err == nil {
		err = s.serve(ctx, func() error {
			told = true
			return notes.Encode(note{Ready: &ready{}})
		})
	}
	if err != nil {
		s.log.Error("nbd-server ends", "err", err)
	}
	if err != nil && !told {
		_ = notes.Encode(note{Error: err.Error()}) // it fails when nobody listens
	}
	return err
}
