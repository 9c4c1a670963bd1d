package block

import (
	"context"
	"fmt"
	"sync/atomic"
)

// Op is a kind of request.
type Op uint8

// The kinds of request, by the method of each.
const (
	Read     Op = iota // ReadAt
	Write              // WriteAt
	Flush              // Flush
	Trim               // Trim
	Zero               // WriteZeroes
	Prefetch           // Prefetch
	Map                // Extents
)

func (o Op) String() string {
	return [...]string{"read", "write", "flush", "trim", "zero", "prefetch", "map"}[o]
}

// Changes says whether requests of this kind change what the device holds.
func (o Op) Changes() bool { return o == Write || o == Trim || o == Zero }

// Request is a call of one of a device's methods, as a layer sees it that treats all of them alike.
type Request struct {
	Op       Op
	Off, Len int64 // bytes; 0 for a flush
	FUA      bool
}

// Around returns d with f around every request but Close. f calls do to have the request done, at most once, and what f
// returns is the answer. When f returns nil without calling do, a read's buffer is what the caller left in it.
func Around(d Device, f func(ctx context.Context, r Request, do func() error) error) Device {
	return Expose(&around{Lower{d}, f}, Has(d))
}

// Borrow returns d for one of several users, with all that it has. To close what Borrow returns ends that alone; d stays
// open, and belongs to the caller.
func Borrow(d Device) Device {
	b := &borrowed{}
	b.around = around{Lower{d}, func(_ context.Context, _ Request, do func() error) error {
		if b.closed.Load() {
			return fmt.Errorf("borrowed device: %w", ErrClosed)
		}
		return do()
	}}
	return Expose(b, Has(d))
}

// borrowed is the device that Borrow returns.
type borrowed struct {
	around
	closed atomic.Bool
}

// Close implements Device.
func (b *borrowed) Close() error {
	b.closed.Store(true)
	return nil
}

// around is the device that Around returns.
type around struct {
	Lower
	f func(ctx context.Context, r Request, do func() error) error
}

// ReadAt implements Device.
func (a *around) ReadAt(ctx context.Context, p []byte, off int64) error {
	return a.f(ctx, Request{Op: Read, Off: off, Len: int64(len(p))}, func() error { return a.Lower.ReadAt(ctx, p, off) })
}

// WriteAt implements Writer.
func (a *around) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return a.f(ctx, Request{Write, off, int64(len(p)), fua}, func() error { return a.Lower.WriteAt(ctx, p, off, fua) })
}

// Flush implements Flusher.
func (a *around) Flush(ctx context.Context) error {
	return a.f(ctx, Request{Op: Flush}, func() error { return a.Lower.Flush(ctx) })
}

// Trim implements Trimmer.
func (a *around) Trim(ctx context.Context, off, n int64, fua bool) error {
	return a.f(ctx, Request{Trim, off, n, fua}, func() error { return a.Lower.Trim(ctx, off, n, fua) })
}

// WriteZeroes implements Zeroer.
func (a *around) WriteZeroes(ctx context.Context, off, n int64, hole, fast, fua bool) error {
	return a.f(ctx, Request{Zero, off, n, fua}, func() error { return a.Lower.WriteZeroes(ctx, off, n, hole, fast, fua) })
}

// Prefetch implements Prefetcher.
func (a *around) Prefetch(ctx context.Context, off, n int64) error {
	return a.f(ctx, Request{Op: Prefetch, Off: off, Len: n}, func() error { return a.Lower.Prefetch(ctx, off, n) })
}

// Extents implements Mapper.
func (a *around) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	return a.f(ctx, Request{Op: Map, Off: off, Len: n}, func() error { return a.Lower.Extents(ctx, off, n, yield) })
}
