package blocktest

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/dnbd/dnbd/block"
)

// Memory is a device over bytes in memory. The caller must not change them while it is open.
type Memory struct {
	data   []byte
	closed atomic.Bool
}

// NewMemory returns a device that holds data, which it does not copy.
func NewMemory(data []byte) *Memory { return &Memory{data: data} }

// ReadAt implements block.Device.
func (m *Memory) ReadAt(ctx context.Context, p []byte, off int64) error {
	if m.closed.Load() {
		return fmt.Errorf("read memory: %w", block.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("read memory: %w", err)
	}
	if err := block.CheckRange(m.Size(), off, len(p)); err != nil {
		return err
	}
	copy(p, m.data[off:])
	return nil
}

// Size implements block.Device.
func (m *Memory) Size() int64 { return int64(len(m.data)) }

// Close implements block.Device.
func (m *Memory) Close() error {
	m.closed.Store(true)
	return nil
}

// Faulty is a device whose reads fail while Err says so.
type Faulty struct {
	block.Device
	// Err is asked at each read; what it returns, if not nil, is the read's error.
	Err func(off int64, n int) error
}

// ReadAt implements block.Device.
func (f *Faulty) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := f.Err(off, len(p)); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return f.Device.ReadAt(ctx, p, off)
}

// Gated is a device whose reads wait until Open is closed, or their context ends.
type Gated struct {
	block.Device
	Open chan struct{}
}

// ReadAt implements block.Device.
func (g *Gated) ReadAt(ctx context.Context, p []byte, off int64) error {
	select {
	case <-g.Open:
		return g.Device.ReadAt(ctx, p, off)
	case <-ctx.Done():
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, ctx.Err())
	}
}
