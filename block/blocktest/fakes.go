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

// Faulty returns d, of which every request fails that fail returns an error for.
func Faulty(d block.Device, fail func(block.Request) error) block.Device {
	return block.Around(d, func(_ context.Context, r block.Request, do func() error) error {
		if err := fail(r); err != nil {
			return fmt.Errorf("%v %d bytes at %d: %w", r.Op, r.Len, r.Off, err)
		}
		return do()
	})
}

// Gated returns d, of which every request waits until open is closed, or its context ends.
func Gated(d block.Device, open <-chan struct{}) block.Device {
	return block.Around(d, func(ctx context.Context, r block.Request, do func() error) error {
		select {
		case <-open:
			return do()
		case <-ctx.Done():
			return fmt.Errorf("%v %d bytes at %d: %w", r.Op, r.Len, r.Off, ctx.Err())
		}
	})
}
