//go:build linux

package e2e

import (
	"bytes"
	"sync"
	"time"
)

// output collects what a process writes, and lets others wait for it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed when there is more, or no more
	end  bool
}

func newOutput() *output { return &output{more: make(chan struct{})} }

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	o.wakeLocked()
	return len(p), nil
}

// close says that nothing more will come.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end = true
	o.wakeLocked()
}

func (o *output) wakeLocked() {
	close(o.more)
	o.more = make(chan struct{})
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// await waits until what was written satisfies enough. It says whether that was so before the end and within d.
func (o *output) await(d time.Duration, enough func(string) bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		o.mu.Lock()
		text, more, end := o.text.String(), o.more, o.end
		o.mu.Unlock()
		if enough(text) {
			return true
		}
		if end {
			return false
		}
		select {
		case <-more:
		case <-timer.C:
			return false
		}
	}
}
