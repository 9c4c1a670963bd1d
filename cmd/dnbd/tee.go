package main

import (
	"context"
	"log/slog"
	"sync/atomic"
)

// tee is a log that goes to a file, and to a person until that is switched off.
type tee struct {
	file   slog.Handler
	person slog.Handler
	off    *atomic.Bool
}

// newTee returns a tee that is switched on.
func newTee(file, person slog.Handler) *tee { return &tee{file, person, new(atomic.Bool)} }

// Enabled implements slog.Handler.
func (t *tee) Enabled(ctx context.Context, l slog.Level) bool {
	return t.file.Enabled(ctx, l) || !t.off.Load() && t.person.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (t *tee) Handle(ctx context.Context, r slog.Record) error {
	if !t.off.Load() && t.person.Enabled(ctx, r.Level) {
		// A person who went away is no reason not to write to the file.
		_ = t.person.Handle(ctx, r.Clone())
	}
	if !t.file.Enabled(ctx, r.Level) {
		return nil
	}
	return t.file.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (t *tee) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &tee{t.file.WithAttrs(attrs), t.person.WithAttrs(attrs), t.off}
}

// WithGroup implements slog.Handler.
func (t *tee) WithGroup(name string) slog.Handler {
	return &tee{t.file.WithGroup(name), t.person.WithGroup(name), t.off}
}
