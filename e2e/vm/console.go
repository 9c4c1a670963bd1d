//go:build linux

package vm

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// console collects what a guest prints, and lets others wait for it.
type console struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{} // closed when there is more, or no more
	end  bool
}

func newConsole() *console { return &console{more: make(chan struct{})} }

// Write implements io.Writer. Carriage returns are left out.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text.WriteString(strings.ReplaceAll(string(p), "\r", ""))
	c.wakeLocked()
	return len(p), nil
}

// close says that nothing more will come.
func (c *console) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end = true
	c.wakeLocked()
}

func (c *console) wakeLocked() {
	close(c.more)
	c.more = make(chan struct{})
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// await waits until text was printed.
func (c *console) await(ctx context.Context, text string) error {
	for {
		c.mu.Lock()
		found, more, end := strings.Contains(c.text.String(), text), c.more, c.end
		c.mu.Unlock()
		switch {
		case found:
			return nil
		case end:
			return errors.New("the guest has ended")
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// complaint is what a kernel prints when it finds itself wrong, and when a task hangs. That a processor got stuck is not one: the
// host may have had no time for it.
var complaint = regexp.MustCompile(`(?m)^.*(?:Kernel panic|BUG: |Oops: |WARNING: |general protection fault|blocked for more than|` +
	`Out of memory: ).*$`)

// stuck is what looks like a complaint and is not.
var stuck = regexp.MustCompile(`soft lockup`)

// complaints are the lines with which the kernel says that something is wrong with it.
func (c *console) complaints() []string {
	return slices.DeleteFunc(complaint.FindAllString(c.String(), -1), stuck.MatchString)
}

// misemulated says whether the kernel came upon a breakpoint that was not there any more. It has one where it patches itself, until
// the other processors know; an emulated one that is late may run what it translated before.
func (c *console) misemulated() bool { return strings.Contains(c.String(), "Oops: int3") }
