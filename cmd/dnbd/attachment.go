package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/cache"
	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/target"
)

// attachment is what serve serves.
type attachment struct {
	target  target.Target
	network client.Network
	client  *client.Client // nil for an export of an NBD server
	remote  string         // the URI of that
	size    int64          // and its length in bytes
	overlay *overlaid      // nil where nothing is kept of what is written
	device  attach.Attachment
	uri     string
	started time.Time
	logFile string

	mu        sync.Mutex // guards what follows
	cacheFile string     // empty: in memory
}

// serve attaches the image, calls report when it can be used, and returns when it is detached again: by a request at its
// control socket, or because ctx ended. While it is in use it stays.
func (o *attachOptions) serve(ctx context.Context, log *slog.Logger, report func(ready) error) (err error) {
	if err := o.hold(log); err != nil {
		return err
	}
	if isNBD(o.image) {
		return o.serveRemote(ctx, log, report)
	}
	t, err := target.Parse(o.image)
	if err != nil {
		return err
	}
	a := &attachment{started: time.Now()}
	if a.network, err = o.network(&t, log); err != nil {
		return err
	}
	a.target = t
	driver, why, err := attach.Choose(o.driver, o.candidates())
	if err != nil {
		return err
	}
	offer, err := o.find(ctx, a.network, t)
	if err != nil {
		return err
	}
	a.cacheFile = o.cache
	keep, err := o.openCache(offer.Descriptor.BlockSize, log)
	if err != nil {
		return err
	}
	a.client, err = client.Open(client.Config{
		Network: a.network, Descriptor: offer.Descriptor, Cache: keep, IOTimeout: o.ioTimeout, Log: log,
	})
	if err != nil {
		return errors.Join(err, keep.Close())
	}
	defer func() { err = errors.Join(err, a.client.Close()) }()
	var dev block.Device = a.client
	if a.overlay, err = o.openOverlay(ctx, a.client, o.image); err != nil {
		return err
	}
	if a.overlay != nil {
		dev = a.overlay
		defer func() { err = a.overlay.end(o.cow == cowMemory, err) }()
	}
	a.device, err = o.take(attach.Options{
		Device: o.device, Socket: o.socket, Name: offer.Descriptor.Name, ID: o.id(offer.Descriptor.ID().String()), Times: o.times(), Log: log,
	}, func(options attach.Options) (attach.Attachment, error) { return driver.Attach(ctx, dev, options) })
	if err != nil {
		return err
	}
	if driver.Name() == socketDriver {
		a.uri = nbdURI(a.device.Path())
	}
	return a.run(ctx, log, func() error {
		return report(ready{
			Device: a.device.Path(), URI: a.uri, Servers: offer.Servers, Why: why,
			Image: fmt.Sprintf("%s@%d", offer.Descriptor.Name, offer.Descriptor.Revision), Network: a.network.String(),
		})
	})
}

// find is find for as long as o says.
func (o *attachOptions) find(ctx context.Context, n client.Network, t target.Target) (target.Offer, error) {
	policy, err := o.policy(t)
	if err != nil {
		return target.Offer{}, err
	}
	limit, flag := o.ioTimeout, "--io-timeout"
	if o.wait > 0 && (limit == 0 || o.wait < limit) {
		limit, flag = o.wait, "--wait"
	}
	if limit == 0 {
		return find(ctx, n, t, policy, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	offer, err := find(ctx, n, t, policy, nil)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("no server offered %s within %s %v %v", t.What(), flag, limit, n)
	}
	return offer, err
}

// take takes a device over or attaches it, as o says.
func (o *attachOptions) take(options attach.Options, do func(attach.Options) (attach.Attachment, error)) (attach.Attachment, error) {
	options.Resume = o.resume || o.restart
	a, err := do(options)
	if o.restart && errors.Is(err, attach.ErrNothingLeft) {
		options.Resume = false
		a, err = do(options)
	}
	return a, err
}

// retryTime is the time between two tries to detach what is in use when the process was told to stop.
const retryTime = time.Second

// run keeps a device that is attached until it is detached.
func (a *attachment) run(ctx context.Context, log *slog.Logger, report func() error) error {
	// From here on a second signal is not to kill the process: it would leave the device behind.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	detached := make(chan struct{})
	leave := sync.OnceFunc(func() { close(detached) })
	handler := control.Handler{
		Status: a.status,
		Detach: func(context.Context) error { return then(a.device.Close(), leave) },
	}
	if a.client != nil {
		handler.AddCache = func(_ context.Context, r control.AddCache) error { return a.addCache(r, log) }
	}
	if f, ok := a.device.(attach.Forcer); ok {
		handler.Force = func(context.Context) error { return then(f.Force(), leave) }
	}
	if _, ok := a.device.(attach.Adjuster); ok || a.client != nil {
		handler.Set = func(_ context.Context, r control.Set) error { return a.set(r) }
	}
	svc, err := control.Listen(controlName(a.device.Path()), handler)
	if err != nil {
		return errors.Join(err, a.device.Close())
	}
	defer func() {
		if err := svc.Close(); err != nil {
			log.Warn("close the control socket", "error", err)
		}
	}()
	keep := deviceCapabilities
	if a.device.Driver() == socketDriver {
		keep = socketCapabilities
	}
	if err := dropPrivileges(keep); err != nil {
		log.Debug("the process keeps its privileges", "error", err)
	}
	a.logFile = keepLog(svc.Path())
	defer dropLog(a.logFile)
	if err := report(); err != nil {
		return errors.Join(err, a.device.Close()) // whoever wanted it is gone
	}
	notify(log, daemon.SdNotifyReady)

	stop, retry := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case <-detached:
			return nil
		case <-a.device.Done():
			log.Warn("the device was taken away by somebody else", "device", a.device.Path())
			return a.device.Close()
		case <-stop:
			stop = nil // once is enough
		case <-signals:
		case <-retry:
		}
		if ctx.Err() == nil {
			continue
		}
		err := a.device.Close()
		if err == nil || !errors.Is(err, attach.ErrBusy) {
			return err
		}
		if retry == nil {
			log.Warn("told to stop; detaching as soon as it is no longer used", "reason", err)
			tick := time.NewTicker(retryTime)
			defer tick.Stop()
			retry = tick.C
		}
	}
}

// then calls f unless there was an error, which it returns.
func then(err error, f func()) error {
	if err == nil {
		f()
	}
	return err
}

// openCache opens the cache that o asks for.
func (o *attachOptions) openCache(blockSize int, log *slog.Logger) (*cache.Cache, error) {
	if o.cache == "" {
		c, err := cache.NewMemory(int64(cmp.Or(o.cacheSize, client.DefaultMemory)), blockSize)
		if err != nil {
			return nil, fmt.Errorf("--cache-size: %w", err)
		}
		return c, nil
	}
	c, err := cache.Open(o.cache, int64(o.cacheSize), blockSize, log)
	if err != nil {
		return nil, fmt.Errorf("--cache: %w", err)
	}
	return c, nil
}

// addCache has the client keep its blocks in a cache file from now on.
func (a *attachment) addCache(r control.AddCache, log *slog.Logger) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cacheFile == r.File {
		return fmt.Errorf("%s is the cache already", r.File)
	}
	next, err := cache.Open(r.File, r.Size, a.client.Descriptor().BlockSize, log)
	if err != nil {
		return err
	}
	if err := a.client.AddCache(next); err != nil {
		return err
	}
	a.cacheFile = r.File
	return nil
}

// status is the attachment as the control socket shows it.
func (a *attachment) status() control.Status {
	if a.client == nil {
		return a.remoteStatus()
	}
	s := a.client.Stats()
	a.mu.Lock()
	file := a.cacheFile
	a.mu.Unlock()
	st := &control.Attachment{
		Device: a.device.Path(), Driver: a.device.Driver(), URI: a.uri, Target: a.target.String(),
		Image: imageStatus(a.client.Descriptor()), Waiting: s.Waiting, OverNBD: s.OverNBD, Slow: s.Slow, Overlay: a.overlay.status(),
		Kernel: kernelStatus(a.device),
		Cache: control.Cache{
			File: file, Capacity: int64(s.Cache.Slots) * int64(s.Cache.SlotSize), Used: s.Cache.Bytes, Hits: s.Cache.Hits,
			Misses: s.Cache.Misses, Replaced: s.Cache.Replaced, Bad: s.Cache.Bad,
		},
		Traffic: control.Traffic{
			Read: s.Read, Errors: s.Errors, Wanted: s.Network.Asked, Overheard: s.Network.Overheard, Repaired: s.Network.Repaired,
			Duplicates: s.Network.Duplicates, Fetched: s.Fetched, Refused: s.Refused, Drops: s.Drops, Unopened: control.Seals(s.Unopened),
		},
		Replicas: []control.Replica{},
	}
	for _, r := range s.Replicas {
		state := control.Stalled
		if r.Live {
			state = control.Live
		}
		st.Replicas = append(st.Replicas, control.Replica{
			Server: r.Server, Address: r.Addr.String(), State: state, RTT: r.RTT.Microseconds(), Share: r.Share, Rate: r.Rate,
		})
	}
	for _, h := range s.Hosts {
		state := control.Stalled
		if h.Live {
			state = control.Live
		}
		share := float64(h.Bytes) / float64(max(s.Fetched, 1))
		st.Replicas = append(st.Replicas, control.Replica{Address: h.Addr, State: state, Share: share})
	}
	group := ""
	if a.network.Group.IsValid() {
		group = a.network.Group.String()
	}
	return control.Status{
		Version: version, Started: a.started.UTC(), Group: group,
		Interfaces: interfaceNames(a.network.Interfaces), Keys: a.network.Keys.Names(), Log: a.logFile, Attachment: st,
	}
}

// controlName is the name of the control socket of the process that serves a device.
func controlName(device string) string { return "attach-" + control.Name(device) }

// nbdURI is the URI of a socket for NBD clients, as the NBD project's uri.md defines it.
func nbdURI(socket string) string {
	path := strings.NewReplacer("%2F", "/", "+", "%20").Replace(url.QueryEscape(socket))
	return "nbd+unix:///?socket=" + path
}
