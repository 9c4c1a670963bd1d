//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// grace is how long Close lets requests complete before it ends their context.
	grace = 2 * time.Second
	// dying is how long Resume waits for the disk's last process to be gone, which is told to end when it is called.
	dying = 10 * time.Second
	// dyingLook is the time between two looks.
	dyingLook = 5 * time.Millisecond
)

// Disk is a block device that this process serves. Its methods may be called from many goroutines at once.
type Disk struct {
	info   Info
	device Device
	can    capabilities
	made   time.Time
	char   *os.File // the device that requests come by; no other process can open it

	// ctx is that of the requests.
	ctx    context.Context
	cancel context.CancelFunc

	queues  []*queue
	threads []*thread
	started bool // the threads are
	done    chan struct{}
	err     error // of the threads; read it after done

	closing sync.Mutex // held by Close
	closed  bool
}

// New makes a disk and serves it until Close. When ctx ends before the disk can be used New gives up: the kernel reads the
// partition table first, and that may take its time.
func New(ctx context.Context, c Config) (*Disk, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("make a disk: %w", err)
	}
	ctl, err := openControl()
	if err != nil {
		return nil, fmt.Errorf("make a disk: %w", err)
	}
	defer ctl.close()
	made, err := ctl.add(&c)
	if err != nil {
		return nil, fmt.Errorf("make a disk: %w", err)
	}
	d := newDisk(&c, Info{
		ID: int(made.id), Queues: int(made.queues), Depth: int(made.depth), MaxIO: int(made.maxIO), Size: c.Device.Size(),
	})
	err = d.serve(ctx, d.info.Queues, ctl.start)
	if err == nil {
		return d, nil
	}
	d.cancel()
	return nil, errors.Join(fmt.Errorf("make a disk: %w", err), ctl.stop(d.info.ID), d.release(), ctl.delete(d.info.ID))
}

// Resume gives a disk, which was made with Config.Recover and whose process died, to this process. What waits for the disk goes
// on. Of c the device counts, which must have the size of the disk's and be able to do what that could; the rest is as it was.
//
// While a process still serves the disk Resume waits for it to end, for some seconds or until ctx ends.
func Resume(ctx context.Context, id int, c Config) (*Disk, error) {
	d, err := resume(ctx, id, c)
	if err != nil {
		return nil, fmt.Errorf("resume disk %d: %w", id, err)
	}
	return d, nil
}

func resume(ctx context.Context, id int, c Config) (*Disk, error) {
	ctl, err := openControl()
	if err != nil {
		return nil, err
	}
	defer ctl.close()
	info, err := ctl.info(id)
	if err != nil {
		return nil, err
	}
	c.BlockSize, c.Queues, c.Depth, c.MaxIO = info.BlockSize, info.Queues, info.Depth, info.MaxIO
	if c, err = c.withDefaults(); err != nil {
		return nil, err
	}
	if !info.Recoverable {
		return nil, errors.New("it was made without Config.Recover, and ended with its process")
	}
	if err := ctl.matches(id, &c); err != nil {
		return nil, err
	}
	if err := ctl.startRecovery(ctx, id); err != nil {
		return nil, err
	}
	// From here on ctx does not count. In Linux 6.12 a disk some of whose queues are served while others are not can never be
	// resumed: should this process be killed, too, the next attempt crashes the kernel. So one thread serves all queues, and has
	// them all at once.
	d := newDisk(&c, info)
	if err := d.serve(context.WithoutCancel(ctx), 1, ctl.endRecovery); err != nil {
		d.cancel()
		for _, t := range d.threads {
			t.quit()
		}
		return nil, errors.Join(err, d.release())
	}
	return d, nil
}

// matches returns an error unless a disk can be resumed with c.
func (c *control) matches(id int, cfg *Config) error {
	was, err := c.params(id)
	if err != nil {
		return err
	}
	is := cfg.params()
	switch {
	case was.basic.sectors != is.basic.sectors:
		return fmt.Errorf("it has %d bytes, and the device %d: they are not the same", was.basic.sectors*sector, cfg.Device.Size())
	case was.basic.attrs != is.basic.attrs || was.discard.maxSectors != is.discard.maxSectors || was.discard.maxZeroesSectors != is.discard.maxZeroesSectors:
		return errors.New("its users were promised to read, write, flush, trim or zero what the device does not offer, or the other way round")
	}
	return nil
}

// startRecovery takes a disk away from its dead process.
func (c *control) startRecovery(ctx context.Context, id int) error {
	return whileBusy(ctx, func() error {
		err := c.do(cmdStartRecovery, id, nil, 0, 0)
		if err == nil {
			return nil
		}
		info, infoErr := c.info(id)
		switch {
		case infoErr != nil:
			return infoErr
		case info.State == Dead:
			return errors.New("it was stopped, and can only be deleted")
		case errors.Is(err, unix.EINVAL) && info.State == Orphaned:
			return nil // it was taken away already, by a process that was killed before it served any queue
		}
		return err
	})
}

// whileBusy calls f until it returns something else than EBUSY, as it does while the disk's last process is dying.
func whileBusy(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, dying)
	defer cancel()
	look := time.NewTicker(dyingLook)
	defer look.Stop()
	for {
		err := f()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("a process still serves it: %w", os.ErrExist)
		case <-look.C:
		}
	}
}

// endRecovery lets a disk's users go on.
func (c *control) endRecovery(id int) error {
	return c.do(cmdEndRecovery, id, nil, 0, uint64(os.Getpid()))
}

func newDisk(c *Config, info Info) *Disk {
	d := &Disk{info: info, device: c.Device, can: c.capabilities(), made: time.Now(), done: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// serve starts threads for the queues and then the disk, with start.
func (d *Disk) serve(ctx context.Context, threads int, start func(id int) error) error {
	err := whileBusy(ctx, func() (err error) {
		d.char, err = os.OpenFile(charPath(d.info.ID), os.O_RDWR, 0)
		return err
	})
	if err != nil {
		return err
	}
	for id := range d.info.Queues {
		q, err := newQueue(d, id)
		if err != nil {
			return err
		}
		d.queues = append(d.queues, q)
	}
	for some := range slices.Chunk(d.queues, len(d.queues)/threads) {
		t, err := newThread(d, some)
		if err != nil {
			return err
		}
		d.threads = append(d.threads, t)
	}
	if err := d.startThreads(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, d.cancel)
	err = start(d.info.ID)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	return err
}

// startThreads starts the threads, and done with them.
func (d *Disk) startThreads() error {
	d.started = true
	ready, ended, mapped := make(chan error), make(chan error), make(chan struct{})
	for _, t := range d.threads {
		go func() { ended <- t.serve(ready, mapped) }()
	}
	go func() {
		defer close(d.done)
		for range d.threads {
			d.err = errors.Join(d.err, <-ended)
		}
	}()
	var errs []error
	for range d.threads {
		errs = append(errs, <-ready)
	}
	// The threads have the queues first: until somebody maps descriptors, the next process could take the disk over as it is.
	for _, q := range d.queues {
		errs = append(errs, q.mapDescriptors())
	}
	close(mapped)
	return errors.Join(errs...)
}

// release gives back what a disk has whose threads have ended, or are about to.
func (d *Disk) release() error {
	var errs []error
	if d.started {
		<-d.done
	}
	for _, t := range d.threads {
		errs = append(errs, t.release())
	}
	for _, q := range d.queues {
		errs = append(errs, q.release())
	}
	if d.char != nil {
		errs = append(errs, d.char.Close())
	}
	return errors.Join(errs...)
}

// ID is the disk's number.
func (d *Disk) ID() int { return d.info.ID }

// Path is where the disk is: /dev/ublkbN.
func (d *Disk) Path() string { return blockPath(d.info.ID) }

// Done is closed when the disk can no longer be used, because of Close or because somebody else has stopped it. Close is still
// to be called then.
func (d *Disk) Done() <-chan struct{} { return d.done }

// Stats tells what the disk has done and is doing.
func (d *Disk) Stats() (s Stats) {
	now := int64(time.Since(d.made))
	for _, q := range d.queues {
		s.Requests += q.requests.Load()
		s.Errors += q.errors.Load()
		for i := range q.began {
			if began := q.began[i].Load(); began > 0 {
				s.Outstanding++
				s.Oldest = max(s.Oldest, time.Duration(now-began))
			}
		}
	}
	return s
}

// Abort is Close without patience: what is under way fails at once.
func (d *Disk) Abort() error {
	d.cancel()
	return d.Close()
}

// Close stops and deletes the disk. It does not care whether somebody uses it: what is under way completes, or fails when that
// takes longer than a few seconds, and everything later fails. A second Close does nothing.
func (d *Disk) Close() error {
	d.closing.Lock()
	defer d.closing.Unlock()
	if d.closed {
		return nil
	}
	ctl, err := openControl()
	if err != nil {
		return fmt.Errorf("close disk %d: %w", d.info.ID, err)
	}
	defer ctl.close()
	hurry := time.AfterFunc(grace, d.cancel)
	err = ctl.stop(d.info.ID)
	hurry.Stop()
	if err != nil {
		return err
	}
	d.cancel()
	d.closed = true
	// While it is open the disk cannot be another one of the same number.
	err = ctl.delete(d.info.ID)
	return errors.Join(err, d.release(), d.err)
}
