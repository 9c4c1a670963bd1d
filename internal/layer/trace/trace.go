// Package trace is a layer that logs each request to a device.
package trace

import (
	"context"
	"log/slog"
	"time"

	"github.com/dnbd/dnbd/block"
)

// New returns d with a record in the log for each request when it is answered: what it was, how long it took, and the
// error, if any. Records of requests that failed are warnings, the others are information. d belongs to the layer, which
// closes it.
func New(d block.Device, log *slog.Logger) block.Device {
	return block.Around(d, func(ctx context.Context, r block.Request, do func() error) error {
		begin := time.Now()
		err := do()
		level := slog.LevelInfo
		attrs := make([]slog.Attr, 0, 5)
		if r.Op != block.Flush {
			attrs = append(attrs, slog.Int64("offset", r.Off), slog.Int64("length", r.Len))
		}
		if r.FUA {
			attrs = append(attrs, slog.Bool("fua", true))
		}
		attrs = append(attrs, slog.Duration("took", time.Since(begin)))
		if err != nil {
			level = slog.LevelWarn
			attrs = append(attrs, slog.Any("error", err))
		}
		log.LogAttrs(ctx, level, r.Op.String(), attrs...)
		return err
	})
}
