//go:build linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// walk reads a device or a file from begin to end and compares it with another. Its zero value reads all of it.
type walk struct {
	from, to int64           // bytes; to 0 is the end
	step     int             // bytes to read at a time, 0 is 128 KiB
	after    func(off int64) // called after each step with how far it got
	longest  time.Duration   // that a step took
}

// run returns an error that names the first difference. The device may be longer than what it is compared with: its size
// is one of whole sectors.
func (w *walk) run(device, want string) error {
	a, err := os.Open(device)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(want)
	if err != nil {
		return err
	}
	defer b.Close()
	if w.step == 0 {
		w.step = 128 << 10
	}
	end := w.to
	if end == 0 {
		if end, err = b.Seek(0, io.SeekEnd); err != nil {
			return err
		}
	}
	got, expected := make([]byte, w.step), make([]byte, w.step)
	for off := w.from; off < end; {
		n := int(min(int64(w.step), end-off))
		if _, err := b.ReadAt(expected[:n], off); err != nil {
			return err
		}
		begin := time.Now()
		if _, err := a.ReadAt(got[:n], off); err != nil {
			return fmt.Errorf("%s at %d: %w", device, off, err)
		}
		w.longest = max(w.longest, time.Since(begin))
		if !bytes.Equal(got[:n], expected[:n]) {
			return fmt.Errorf("%s: %w", device, firstDifference(got[:n], expected[:n], off))
		}
		if off += int64(n); w.after != nil {
			w.after(off)
		}
	}
	return nil
}

// errWrong is wrapped when bytes were read that are not the image's: never may that be.
var errWrong = errors.New("wrong bytes")

func firstDifference(got, want []byte, off int64) error {
	i := 0
	for got[i] == want[i] {
		i++
	}
	end := min(i+8, len(got))
	return fmt.Errorf("%w at %d: %x, want %x", errWrong, off+int64(i), got[i:end], want[i:end])
}

// compare is a walk over everything.
func compare(device, want string) error { return new(walk).run(device, want) }

// background is a function that runs.
type background struct {
	done chan struct{}
	err  error // of the function; read it after done
}

func inBackground(f func() error) *background {
	b := &background{done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.err = f()
	}()
	return b
}

// wait returns the function's error, or one that says that it has not returned.
func (b *background) wait() error {
	select {
	case <-b.done:
		return b.err
	case <-time.After(patience):
		return fmt.Errorf("it has not ended after %v", patience)
	}
}
