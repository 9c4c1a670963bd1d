//go:build linux

package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/internal/nbdkernel"
	"golang.org/x/sys/unix"
)

const (
	// The pauses between attempts to replace a connection grow from the first to the longest.
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
	// adoptPause is the pause between attempts to find out whether a connection that an earlier process made is alive, where no
	// notice comes before.
	adoptPause = 10 * time.Second
	// The kernel is asked whether it has done with connections that are dead after pauses that grow from the first to the longest.
	// After stuck it is helped.
	firstLook   = time.Millisecond
	longestLook = 50 * time.Millisecond
	stuck       = time.Second
	// settle is how long the kernel gets for that where it does not show, or where it is not known which connections are dead.
	settle = time.Second
	// partingTime is how long the connections may take to end once the kernel has let go of them.
	partingTime = 2 * time.Second
)

// errAlive is why a connection is not taken: the kernel has it that the one that it is for is alive.
var errAlive = errors.New("the kernel has no dead connection to replace")

// device is a device of the kernel's that this process looks after.
type device struct {
	claim   *claim.Claim
	control *nbdkernel.Control
	index   int
	backend string
	opener  opener
	counts  func(*attach.Details) // adds what is known of requests
	flags   uint16
	outlive bool // connections outlive the process that made them
	log     *slog.Logger

	ctx    context.Context // ends when connections are not to be replaced any more
	cancel context.CancelFunc
	wg     sync.WaitGroup // those that keep connections, and listen for notices
	done   chan struct{}  // closed when the device has ended
	end    func()         // closes done

	offering sync.Mutex // held while the kernel is given a connection

	closing sync.Mutex // held by Close and Force
	closed  bool

	mu        sync.Mutex // guards what follows, and the links' descriptors
	links     []slot
	times     attach.Times
	inherited string // what an earlier process has recorded
	lost      int
	lastLost  string
	notice    chan struct{} // closed when the next notice comes
}

// slot is one connection of the device, which is replaced when it breaks.
type slot struct {
	link  *link     // nil while there is none, or it is an earlier process's
	alive bool      // as far as is known
	since time.Time // alive changed
}

// keep replaces the connection of a slot whenever it ends, until ctx does. l is nil when it is an earlier process's.
func (d *device) keep(n int, l *link) {
	for {
		var err error
		if l == nil {
			find := d.replace
			if d.outlive {
				find = d.adopt
			}
			if l, err = find(); err != nil {
				return
			}
			d.set(n, l)
		}
		select {
		case <-l.ended:
		case <-d.ctx.Done():
			return // Close ends what is there
		}
		if d.ctx.Err() != nil {
			return
		}
		d.drop(n, l)
		if l, err = d.replace(); err != nil {
			return
		}
		d.set(n, l)
	}
}

// set notes the connection of a slot.
func (d *device) set(n int, l *link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.links[n] = slot{l, true, time.Now()}
	d.recordLocked()
}

// recordLocked writes the connections down for the next process.
func (d *device) recordLocked() {
	if err := record(d.claim, d.inherited, d.links); err != nil {
		d.log.Warn("write down the connections", "device", d.claim.Device(), "err", err)
	}
}

// drop takes an ended connection out of its slot.
func (d *device) drop(n int, l *link) {
	d.log.Warn("NBD connection lost, replacing it", "device", d.claim.Device(), "peer", l.peer)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.links[n] = slot{since: time.Now()}
	d.lost++
	d.lastLost = "the connection to " + l.peer + " ended"
	l.shut()
	l.close()
}

// replace makes a connection and has the kernel take it. It tries until ctx ends or the device is somebody else's, and
// returns an error then.
func (d *device) replace() (*link, error) {
	said := ""
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		if err := d.ours(); err != nil {
			d.log.Warn("the device was taken away", "device", d.claim.Device(), "reason", err)
			d.end()
			return nil, err
		}
		l, err := d.offer()
		if err == nil {
			d.log.Info("NBD connection replaced", "device", d.claim.Device(), "peer", l.peer)
			return l, nil
		}
		if said != err.Error() && !errors.Is(err, errAlive) && d.ctx.Err() == nil {
			said = err.Error()
			d.log.Warn("cannot replace an NBD connection yet", "device", d.claim.Device(), "reason", err)
			d.mu.Lock()
			d.lastLost = said
			d.mu.Unlock()
		}
		if err := d.pause(pause); err != nil {
			return nil, err
		}
	}
}

// adopt makes a connection as soon as one that an earlier process made is found dead.
func (d *device) adopt() (*link, error) {
	for {
		d.mu.Lock()
		notice := d.notice
		d.mu.Unlock()
		if err := d.ours(); err != nil {
			d.log.Warn("the device was taken away", "device", d.claim.Device(), "reason", err)
			d.end()
			return nil, err
		}
		l, err := d.offer()
		if err == nil {
			return l, nil
		}
		pause := adoptPause
		if !errors.Is(err, errAlive) {
			pause = longestPause // no server, or the kernel is just about to notice
		}
		select {
		case <-notice:
		case <-time.After(pause):
		case <-d.ctx.Done():
			return nil, d.ctx.Err()
		}
	}
}

// ours returns an error unless the kernel's device is still the one that was attached.
func (d *device) ours() error {
	k, err := d.control.Look(d.index)
	switch {
	case err != nil:
		return err
	case !k.Connected():
		return fmt.Errorf("%s was disconnected", k.Path())
	case k.Backend != d.backend && k.Backend != "":
		return fmt.Errorf("%s belongs to another: %s", k.Path(), k.Backend)
	}
	return nil
}

// offer makes a connection and gives it to the kernel. The error wraps errAlive when the kernel does not take it.
func (d *device) offer() (*link, error) {
	l, err := d.opener.open(d.ctx)
	if err != nil {
		return nil, err
	}
	if err := d.give(l.fd); err != nil {
		l.end()
		return nil, err
	}
	l.taken()
	return l, nil
}

// give gives the kernel a connection for one that is dead. The error wraps errAlive when none is.
func (d *device) give(fd int) error {
	d.offering.Lock()
	defer d.offering.Unlock()
	if err := d.awaitReaders(); err != nil {
		return err
	}
	return d.giveNow(fd)
}

// giveNow is give, whatever the kernel still reads from. d.offering is held.
func (d *device) giveNow(fd int) error {
	if err := nbdkernel.Mark(fd); err != nil {
		return err
	}
	if err := d.control.Reconfigure(d.index, d.backend, nbdkernel.Times{}, fd); err != nil {
		return err
	}
	switch taken, err := nbdkernel.Taken(fd); {
	case err != nil:
		return err
	case !taken:
		return errAlive
	}
	return nil
}

// awaitReaders waits until the kernel has done with all connections that are dead: it would read from the next one for them as well.
// See the package's comment.
func (d *device) awaitReaders() error {
	begun := time.Now()
	for look := firstLook; ; look = min(2*look, longestLook) {
		alive, sure := d.alive()
		n, err := d.control.Receivers(d.index)
		if err != nil {
			d.log.Info("a lost connection is replaced a little later than it could be", "device", d.kernelPath(), "reason", err)
		}
		if err != nil || !sure {
			return d.pause(settle)
		}
		if n <= alive {
			return nil
		}
		if time.Since(begun) > stuck {
			if err := d.giveUseless(); err != nil {
				return err
			}
			begun = time.Now()
		}
		if err := d.pause(look); err != nil {
			return err
		}
	}
}

// pause waits for so long. It fails when connections are not to be replaced any more.
func (d *device) pause(t time.Duration) error {
	select {
	case <-time.After(t):
		return nil
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
}

// alive returns how many connections are alive, and whether that is sure: of an earlier process's it is not known. It looks at each,
// since several may have ended at once, and only the first is known of so far.
func (d *device) alive() (n int, sure bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sure = true
	for _, s := range d.links {
		if s.alive && (s.link == nil || s.link.alive()) {
			n++
			sure = sure && s.link != nil
		}
	}
	return n, sure
}

// giveUseless gives the kernel a connection that has ended. Whoever reads for a dead one may wait for a request that is itself waiting
// for a connection; with this one both go on, and there is nothing in it that could be read. d.offering is held.
func (d *device) giveUseless() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket pair: %w", err)
	}
	err = unix.Close(fds[1])
	if err == nil {
		err = d.giveNow(fds[0])
	}
	return errors.Join(err, unix.Close(fds[0]))
}

// listen passes on notices until they are closed.
func (d *device) listen(notices *nbdkernel.Notices) {
	for {
		dead, err := notices.Next()
		if err != nil {
			if d.ctx.Err() == nil {
				d.log.Warn("no more notices of dead connections", "device", d.claim.Device(), "err", err)
			}
			return
		}
		if dead == nil || slices.Contains(dead, d.index) {
			d.mu.Lock()
			close(d.notice)
			d.notice = make(chan struct{})
			d.mu.Unlock()
		}
	}
}

// Path implements attach.Attachment.
func (d *device) Path() string { return d.claim.Device() }

// Driver implements attach.Attachment.
func (d *device) Driver() string { return driverName }

// Done implements attach.Attachment.
func (d *device) Done() <-chan struct{} { return d.done }

// kernelPath is the kernel's own name of the device.
func (d *device) kernelPath() string { return nbdkernel.Device{Index: d.index}.Path() }

// Holders implements attach.Attachment.
func (d *device) Holders() ([]string, error) { return attach.Holders(d.Path(), d.kernelPath()) }

// Close implements attach.Attachment.
func (d *device) Close() error {
	d.closing.Lock()
	defer d.closing.Unlock()
	if d.closed {
		return nil
	}
	holders, err := d.Holders()
	if err != nil {
		return err
	}
	if len(holders) > 0 {
		return attach.Busy(d.Path(), holders)
	}
	return d.takeDown(false)
}

// Force implements attach.Forcer.
func (d *device) Force() error {
	d.closing.Lock()
	defer d.closing.Unlock()
	if d.closed {
		return nil
	}
	return d.takeDown(true)
}

// takeDown disconnects the device. With force the connections end first: the kernel waits for whoever is sending on them.
func (d *device) takeDown(force bool) error {
	d.cancel()
	d.wg.Wait() // no connection is made from here on
	d.mu.Lock()
	links := slices.Clone(d.links)
	d.mu.Unlock()
	if force {
		for _, s := range links {
			if s.link != nil {
				s.link.shut()
			}
		}
		destroyRecorded(d.claim)
	}
	// The link goes first: once the kernel's device is free somebody else may get it.
	err := d.claim.Unlink()
	if d.ours() == nil {
		err = errors.Join(err, d.control.Disconnect(d.index))
	}
	deadline := time.After(partingTime)
	for _, s := range links {
		if s.link == nil {
			continue
		}
		s.link.shut()
		select {
		case <-s.link.ended:
			s.link.close()
		case <-deadline:
			// What is behind the device does not let go. It ends with the process.
		}
	}
	d.mu.Lock()
	d.links = nil
	d.mu.Unlock()
	d.closed = true
	d.end()
	return errors.Join(err, forget(d.claim), d.claim.Drop(), d.control.Close())
}

// Adjust implements attach.Adjuster.
func (d *device) Adjust(t attach.Times) error {
	if d.outlive {
		if err := safe(d.flags, t); err != nil {
			return fmt.Errorf("set the time limits of %s: %w", d.claim.Device(), err)
		}
	}
	if err := d.control.Reconfigure(d.index, d.backend, nbdkernel.Times{Timeout: t.Request, DeadConnection: t.Dead}); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.times = merge(t, d.times)
	return nil
}

// Inspect implements attach.Inspector.
func (d *device) Inspect() attach.Details {
	i := attach.Details{Kernel: d.kernelPath(), Features: features(d.flags)}
	if load, err := d.control.Load(d.index); err == nil { // it fails once the device is gone
		i.Outstanding, i.Requests = int(load.Outstanding), load.Reads+load.Writes
	}
	if d.counts != nil {
		d.counts(&i)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	i.Times, i.Lost, i.LastLost = d.times, d.lost, d.lastLost
	for _, s := range d.links {
		c := attach.Connection{Alive: s.alive, Since: s.since}
		if s.link != nil {
			c.Peer, c.RTT = s.link.peer, s.link.rtt()
		}
		i.Connections = append(i.Connections, c)
	}
	return i
}

// merge fills in what t leaves open from other.
func merge(t, other attach.Times) attach.Times {
	if t.Request == 0 {
		t.Request = other.Request
	}
	if t.Dead == 0 {
		t.Dead = other.Dead
	}
	return t
}
