//go:build linux

package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/internal/attach/sectors"
	"github.com/dnbd/dnbd/internal/nbdkernel"
	"github.com/dnbd/dnbd/nbd"
	"golang.org/x/sys/unix"
)

const (
	// driverName is what users call the driver.
	driverName = "nbd"
	// sector is the block size of devices whose server does not want another, in bytes: what partition tables are written in.
	sector = 512
	// readAhead is how far the kernel reads ahead of programs that read sequentially, in bytes: its 128 KiB are not enough to
	// keep a network busy.
	readAhead = 1 << 20
	// The time limits of a device, unless others are wanted. A device that waits for its server waits for ever, or as good as:
	// it is for the user to say that an error is better.
	requestTime = 30 * time.Second
	deadTime    = 100 * 365 * 24 * time.Hour
	// slowest is the shortest time limit for requests that the kernel may have where it writes to a server itself. Behind a full
	// cache, or on a machine with too little of everything, a write takes seconds; Linux' own disks are given up after 30.
	slowest = 10 * time.Second
)

// known are the transmission flags that the kernel's driver makes use of.
const known = 1<<0 | // HAS_FLAGS
	1<<1 | // READ_ONLY
	1<<2 | // SEND_FLUSH
	1<<3 | // SEND_FUA
	1<<4 | // ROTATIONAL
	1<<5 | // SEND_TRIM
	1<<6 | // SEND_WRITE_ZEROES
	multiConn

const (
	readOnly  = 1 << 1
	multiConn = 1 << 8
)

// Driver attaches devices with Linux's NBD driver.
type Driver struct {
	dir string
}

// New returns a driver that keeps its claims below dir, such as /run/dnbd/devices. Processes that attach to the same device
// paths must use the same directory, by whatever driver.
func New(dir string) *Driver { return &Driver{dir} }

// Name implements attach.Driver.
func (d *Driver) Name() string { return driverName }

// Available implements attach.Driver.
func (d *Driver) Available() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("ask for this process's capabilities: %w", err)
	}
	if os.Geteuid() != 0 || sets[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return errors.New("it needs root")
	}
	c, err := nbdkernel.Open()
	if err != nil {
		return err
	}
	return c.Close()
}

// Attach implements attach.Driver. The path may be the kernel's own, /dev/nbdN; otherwise it becomes a symbolic link to a
// device that is free.
func (d *Driver) Attach(ctx context.Context, dev block.Device, o attach.Options) (attach.Attachment, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dev = sectors.Whole(dev)
	p, err := newPairs(dev, o.Log)
	if err != nil {
		return nil, err
	}
	return d.place(ctx, o, plan{
		opener: p, size: dev.Size(), flags: nbd.Export{Device: dev}.Flags() | multiConn, blockSize: sector,
		connections: min(runtime.NumCPU(), 8),
		counts: func(i *attach.Details) {
			i.Requests, i.Errors, i.Outstanding, i.Oldest = p.calls.count()
		},
	})
}

// RemoteOptions are how AttachRemote is to talk to the server.
type RemoteOptions struct {
	// Dial is how to connect. Dial.Connections is how many connections there are to be, if the server allows several; Reconnect
	// does not matter.
	Dial nbd.DialConfig
	// ReadOnly attaches a device that cannot be written to, whatever the server allows.
	ReadOnly bool
	// BlockSize is the device's smallest unit in bytes; 0 means 512, or what the server wants.
	BlockSize int
	// Size is the device's length in bytes, at most the export's; 0 means that.
	Size int64
}

// AttachRemote attaches the export that uri, an NBD URI, names, as Attach does. The kernel talks to the server itself. The
// error wraps errors.ErrUnsupported when it cannot, or had better not: with TLS, over vsock, with blocks larger than a page, and
// where it would write and send again what was not answered in less than 10 s.
func (d *Driver) AttachRemote(ctx context.Context, uri string, r RemoteOptions, o attach.Options) (attach.Attachment, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch u, err := nbd.ParseURI(uri); {
	case err != nil:
		return nil, err
	case u.TLS || r.Dial.TLS != nil:
		return nil, fmt.Errorf("attach %s: the kernel's driver knows no TLS: %w", uri, errors.ErrUnsupported)
	case u.Network == "vsock": // since Linux 6.18, and what was mended like that
		return nil, fmt.Errorf("attach %s: the kernel's driver takes TCP and unix sockets alone: %w", uri, errors.ErrUnsupported)
	}
	r.Dial.NoStructuredReplies = true
	server := &remote{uri: uri, config: r.Dial, first: make(chan *link, 1)}
	first, err := server.open(ctx)
	if err != nil {
		return nil, err
	}
	server.first <- first // it is used, too
	defer server.dropFirst()
	info := server.info
	p := plan{
		opener: server, size: info.Size, flags: info.Flags() & known, blockSize: max(sector, int(info.MinBlock)),
		most: int64(info.MaxPayload), connections: 1, outlive: true,
	}
	if info.MultiConn {
		p.connections = max(r.Dial.Connections, 1)
	}
	if r.ReadOnly {
		p.flags |= readOnly
	}
	if err := safe(p.flags, o.Times); err != nil {
		return nil, fmt.Errorf("attach %s: %w: %w", uri, err, errors.ErrUnsupported)
	}
	if r.BlockSize != 0 {
		if r.BlockSize < p.blockSize {
			return nil, fmt.Errorf("attach %s: a block size of %d bytes, and the server wants %d at least", uri, r.BlockSize, p.blockSize)
		}
		p.blockSize = r.BlockSize
	}
	if r.Size != 0 {
		if r.Size > info.Size {
			return nil, fmt.Errorf("attach %s: a size of %d bytes, and the export has %d", uri, r.Size, info.Size)
		}
		p.size = r.Size
	}
	if p.blockSize > unix.Getpagesize() {
		return nil, fmt.Errorf("attach %s: the server wants blocks of %d bytes, the kernel can have %d at most: %w", uri, p.blockSize,
			unix.Getpagesize(), errors.ErrUnsupported)
	}
	if rest := p.size % int64(p.blockSize); rest != 0 {
		o.Log.Warn("the device ends before the export does: it has whole blocks only", "bytes", rest)
	}
	return d.place(ctx, o, p)
}

// safe returns an error unless the kernel may write to a server by itself with time limits, of which 0 is the default. See the
// package's comment.
func safe(flags uint16, t attach.Times) error {
	if flags&readOnly == 0 && 0 < t.Request && t.Request < slowest {
		return fmt.Errorf("the kernel would send a write again after %v, and a server that was only slow would do the first one "+
			"after later ones: give it %v at least", t.Request, slowest)
	}
	return nil
}

// plan is what a device is to be.
type plan struct {
	opener      opener
	size        int64
	flags       uint16
	blockSize   int
	most        int64 // bytes in a request; 0: any
	connections int
	outlive     bool // the connections outlive this process
	counts      func(*attach.Details)
}

// place attaches at the path that o names, or at the first that is free.
func (d *Driver) place(ctx context.Context, o attach.Options, p plan) (attach.Attachment, error) {
	o.Times = merge(o.Times, attach.Times{Request: requestTime, Dead: deadTime})
	return claim.Place(o, func(o attach.Options) (attach.Attachment, error) {
		a, err := d.attach(ctx, o, p)
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", o.Device, err)
		}
		return a, nil
	})
}

// attach attaches at o.Device, an absolute path.
func (d *Driver) attach(ctx context.Context, o attach.Options, p plan) (_ attach.Attachment, err error) {
	a := &device{
		opener: p.opener, counts: p.counts, flags: p.flags, outlive: p.outlive, log: o.Log,
		backend: backend(o), times: o.Times,
		done: make(chan struct{}), notice: make(chan struct{}),
	}
	a.end = sync.OnceFunc(func() { close(a.done) })
	a.ctx, a.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			a.cancel()
		}
	}()
	if a.control, err = nbdkernel.Open(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.control.Close())
		}
	}()
	if a.claim, err = claim.Take(d.dir, driverName, o.Device); err != nil {
		return nil, err
	}
	left, found, err := leftover(a.claim)
	if o.Resume {
		if err == nil {
			err = a.resume(left, found, p)
		}
		if err != nil {
			return nil, errors.Join(err, a.claim.Leave())
		}
		return a, nil
	}
	if err == nil && found {
		err = clean(a.control, a.claim, left, false)
	}
	if err != nil {
		return nil, errors.Join(err, a.claim.Leave())
	}
	if err := a.connect(ctx, o, p); err != nil {
		return nil, errors.Join(err, forget(a.claim), a.claim.Drop())
	}
	return a, nil
}

// connect makes a new device of the kernel's.
func (d *device) connect(ctx context.Context, o attach.Options, p plan) (err error) {
	index, own := nbdkernel.Index(o.Device)
	if !own {
		index = nbdkernel.AnyIndex
		if err := d.claim.Free(); err != nil {
			return err
		}
	}
	var links []*link
	defer func() {
		if err != nil {
			for _, l := range links {
				l.end()
			}
		}
	}()
	config := nbdkernel.Config{
		Size: p.size, BlockSize: p.blockSize, ServerFlags: p.flags, Backend: d.backend,
		Times: nbdkernel.Times{Timeout: d.times.Request, DeadConnection: d.times.Dead},
	}
	for range p.connections {
		l, err := p.opener.open(ctx)
		if err != nil && len(links) > 0 {
			d.log.Warn("a further connection was refused; going on with fewer", "connections", len(links), "reason", err)
			break
		}
		if err != nil {
			return err
		}
		links = append(links, l)
		config.Sockets = append(config.Sockets, l.fd)
	}
	if d.index, err = d.control.Connect(index, config); err != nil {
		return err
	}
	now := time.Now()
	for _, l := range links {
		l.taken()
		d.links = append(d.links, slot{l, true, now})
	}
	d.recordLocked() // nobody else knows d yet
	d.tune(p)
	if !own {
		if err := d.claim.Link(d.kernelPath()); err != nil {
			return errors.Join(err, d.claim.Unlink(), d.control.Disconnect(d.index))
		}
	}
	for n, l := range links {
		d.wg.Go(func() { d.keep(n, l) })
	}
	return nil
}

// tune sets what the kernel's driver does not by itself. The device works without, so a failure is reported only.
func (d *device) tune(p plan) {
	k := nbdkernel.Device{Index: d.index}
	err := k.SetReadAhead(readAhead)
	if p.most > 0 {
		err = errors.Join(err, k.LimitRequests(p.most))
	}
	if err != nil {
		d.log.Warn("tune the device", "device", k.Path(), "err", err)
	}
}
