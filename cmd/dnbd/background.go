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
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/control"
)

// How attach goes to the background: it starts itself again, with --report, in a session of its own, and waits. The new
// process sends notes on its standard output, JSON objects one after another: what it has to say while it waits, and at
// last that the device is ready, or why not. Its standard input ends when the first process does: one that nobody waits for
// any more gives up. Its standard error is a log file from the start, so that the end of a process that crashes is found
// there.

// note is one message from the process in the background.
type note struct {
	Say   string `json:"say,omitempty"`   // something for the user to read
	Error string `json:"error,omitempty"` // why it failed; the last note
	Ready *ready `json:"ready,omitempty"` // the last note
}

// newLogSuffix marks the log of a process that has no device yet.
const newLogSuffix = ".new.log"

// background attaches in a process of its own and returns when the device can be used.
func (o *attachOptions) background(cmd *cobra.Command) (ready, error) {
	dir, err := control.MakeDir()
	if err != nil {
		return ready{}, err
	}
	log, err := os.CreateTemp(dir, "attach-*"+newLogSuffix)
	if err != nil {
		return ready{}, fmt.Errorf("make a log: %w", err)
	}
	defer log.Close()
	r, err := o.start(cmd, log)
	if err != nil {
		// What the process had to say was said.
		_ = os.Remove(log.Name())
	}
	return r, err
}

// start starts the process and listens to it until the device is ready. It is gone when that fails.
func (o *attachOptions) start(cmd *cobra.Command, log *os.File) (ready, error) {
	child, err := again(o.nbd.argv0(), o.args("--report"), logVariable+"="+log.Name())
	if err != nil {
		return ready{}, err
	}
	child.Dir, child.Stderr = "/", log
	// Never closed: this process's end does it.
	if _, err := child.StdinPipe(); err != nil {
		return ready{}, fmt.Errorf("start the process in the background: %w", err)
	}
	r, err := launch(cmd, child)
	var silent *silentError
	if errors.As(err, &silent) {
		said, _ := os.ReadFile(log.Name())
		err = fmt.Errorf("%w; its last words:\n%s", err, said)
	}
	return r, err
}

// again is a command that runs this program once more, under a name, with one more environment variable, in a session of its own.
// It is not of the command's context: the process outlives this one, and is told to stop rather than killed.
func again(name string, args []string, variable string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	child := exec.Command(self)
	child.Args = append([]string{name}, args...)
	child.Env = append(os.Environ(), variable)
	child.SysProcAttr = newSession()
	return child, nil
}

// silentError is how a process in the background ended that had not sent its last note.
type silentError struct{ ended error }

// Error implements error.
func (e *silentError) Error() string {
	return fmt.Sprintf("the process in the background ended: %v", e.ended)
}

// launch starts a process and listens to its notes until the last one. The process is gone when that fails.
func launch(cmd *cobra.Command, child *exec.Cmd) (ready, error) {
	notes, unhook, err := startUntil(cmd.Context(), child)
	if err != nil {
		return ready{}, fmt.Errorf("start the process in the background: %w", err)
	}
	defer unhook()
	r, err := listenTo(notes, cmd.ErrOrStderr())
	if err == nil {
		return r, nil
	}
	ended := child.Wait()
	if cmd.Context().Err() != nil {
		return ready{}, cmd.Context().Err()
	}
	if errors.Is(err, io.EOF) {
		return ready{}, &silentError{ended}
	}
	return ready{}, err
}

// startUntil starts a process, whose standard output it returns, and tells it to stop when ctx ends, unless unhook was called before.
func startUntil(ctx context.Context, child *exec.Cmd) (out io.Reader, unhook func() bool, err error) {
	out, err = child.StdoutPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		return nil, nil, err
	}
	return out, context.AfterFunc(ctx, func() {
		_ = terminate(child.Process) // it fails when the process is gone already
	}), nil
}

// listenTo reads notes until the last one, and passes on to w what the user is to read. The error is io.EOF when the
// process ended without a last note.
func listenTo(notes io.Reader, w io.Writer) (ready, error) {
	for dec := json.NewDecoder(notes); ; {
		var n note
		err := dec.Decode(&n)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return ready{}, io.EOF
		case err != nil:
			return ready{}, fmt.Errorf("listen to the process in the background: %w", err)
		case n.Error != "":
			return ready{}, errors.New(n.Error)
		case n.Ready != nil:
			return *n.Ready, nil
		}
		fmt.Fprint(w, n.Say)
	}
}

// args is the command line of the process that has the device, with the flag by which it tells that.
func (o *attachOptions) args(how string) []string {
	args := []string{"attach", how, "--driver=" + o.driver}
	for flag, value := range map[string]string{"iface": o.iface, "group-key": o.key, "cache": o.cache, "cow": o.cow, "socket": o.socket} {
		if value != "" {
			args = append(args, "--"+flag+"="+value)
		}
	}
	for _, key := range o.trust {
		args = append(args, "--trust="+key)
	}
	if o.allowRollback {
		args = append(args, "--allow-rollback")
	}
	if o.cacheSize > 0 {
		args = append(args, fmt.Sprintf("--cache-size=%d", int64(o.cacheSize)))
	}
	if o.ioTimeout > 0 {
		args = append(args, "--io-timeout="+o.ioTimeout.String())
	}
	if o.wait > 0 {
		args = append(args, "--wait="+o.wait.String())
	}
	if o.timeout > 0 {
		args = append(args, "--timeout="+o.timeout.String())
	}
	for flag, set := range map[string]bool{
		"resume": o.resume, "restart": o.restart, "lock-memory": o.lock, "swap": o.swap, "verbose": o.verbose,
	} {
		if set {
			args = append(args, "--"+flag)
		}
	}
	for _, host := range o.hosts {
		args = append(args, "--unicast="+host)
	}
	args = append(args, o.tls.args()...)
	args = append(args, o.nbd.args()...)
	args = append(args, "--", o.image)
	if o.device != "" {
		args = append(args, o.device)
	}
	return args
}

// serveReporting is serve in the background: it sends notes to w.
func (o *attachOptions) serveReporting(ctx context.Context, w io.Writer) (err error) {
	notes := json.NewEncoder(w)
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	logFile := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	// Until the device is ready warnings are for the user too.
	both := newTee(logFile, newConsole(sayer{notes}, slog.LevelWarn))
	log := slog.New(both)
	slog.SetDefault(log)
	// Nobody to write to is an error like others, rather than the end of the process.
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // until the first process ends, or this one
		_, _ = io.Copy(io.Discard, os.Stdin)
		if !both.off.Load() {
			cancel(errAlone)
		}
	}()
	defer func() {
		if err != nil {
			log.Error("attach", "error", err)
		}
		if context.Cause(ctx) == errAlone {
			dropLog(os.Getenv(logVariable)) // nobody else does it
		}
	}()
	err = o.serve(ctx, log, func(r ready) error {
		both.off.Store(true)
		return notes.Encode(note{Ready: &r})
	})
	if err != nil && !both.off.Load() {
		// It fails when nobody listens any more, who then needs no answer.
		_ = notes.Encode(note{Error: err.Error()})
	}
	return err
}

// errAlone is why a process in the background gives up.
var errAlone = errors.New("the process that waits for this one was killed")

// sayer sends what is written to it as notes for the user to read.
type sayer struct{ notes *json.Encoder }

// Write implements io.Writer.
func (s sayer) Write(p []byte) (int, error) { return len(p), s.notes.Encode(note{Say: string(p)}) }

// logVariable tells the process in the background where its standard error goes.
const logVariable = "DNBD_LOG"

// keepLog gives the log of a process in the background the name that goes with its control socket, and returns that; it is
// empty for a process that logs to wherever its standard error goes.
func keepLog(socket string) string {
	from := os.Getenv(logVariable)
	if !strings.HasSuffix(from, newLogSuffix) || filepath.Dir(from) != filepath.Dir(socket) {
		return ""
	}
	to := strings.TrimSuffix(socket, filepath.Ext(socket)) + ".log"
	if os.Rename(from, to) != nil {
		return from
	}
	return to
}

// dropLog removes the log of a process that ended as it should.
func dropLog(path string) {
	if path != "" {
		_ = os.Remove(path) // what is left would be replaced by the next one's
	}
}
