package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"

	"github.com/spf13/cobra"
)

// newLog returns the log of a command: on stderr, messages of level and above as people like them; with --verbose
// everything, with times and levels.
func newLog(cmd *cobra.Command, level slog.Level) *slog.Logger {
	if verbose(cmd) {
		return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(newConsole(cmd.ErrOrStderr(), level))
}

// verbose says whether --verbose was given.
func verbose(cmd *cobra.Command) bool {
	v, err := cmd.Flags().GetBool("verbose")
	return err == nil && v
}

// console is a log for people: "dnbd: message key=value".
type console struct {
	attrs slog.Handler // writes the attributes alone to line
	*consoleOut
}

// consoleOut is what a console and those derived from it share.
type consoleOut struct {
	mu   sync.Mutex // guards what follows
	w    io.Writer
	line bytes.Buffer
}

func newConsole(w io.Writer, level slog.Level) *console {
	out := &consoleOut{w: w}
	attrs := slog.NewTextHandler(&out.line, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
				return slog.Attr{}
			}
			return a
		},
	})
	return &console{attrs, out}
}

// Enabled implements slog.Handler.
func (c *console) Enabled(ctx context.Context, l slog.Level) bool { return c.attrs.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (c *console) Handle(ctx context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line.Reset()
	c.line.WriteString("dnbd: " + r.Message + " ")
	if err := c.attrs.Handle(ctx, r); err != nil {
		return err
	}
	_, err := c.w.Write(append(bytes.TrimRight(c.line.Bytes(), " \n"), '\n'))
	return err
}

// WithAttrs implements slog.Handler.
func (c *console) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &console{c.attrs.WithAttrs(attrs), c.consoleOut}
}

// WithGroup implements slog.Handler.
func (c *console) WithGroup(name string) slog.Handler {
	return &console{c.attrs.WithGroup(name), c.consoleOut}
}
