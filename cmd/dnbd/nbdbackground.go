package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
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
	child, err := again(nbdServer, args, nbdBackgroundVariable+"=1")
	if err != nil {
		return err
	}
	_, err = launch(cmd, child)
	var silent *silentError
	if errors.As(err, &silent) {
		return fmt.Errorf("%w; start it with -n to see why", err)
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
