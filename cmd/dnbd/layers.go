package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/layer/cached"
	"github.com/dnbd/dnbd/internal/layer/cow"
	"github.com/dnbd/dnbd/internal/layer/delay"
	"github.com/dnbd/dnbd/internal/layer/inject"
	"github.com/dnbd/dnbd/internal/layer/limit"
	"github.com/dnbd/dnbd/internal/layer/overlay"
	"github.com/dnbd/dnbd/internal/layer/readahead"
	"github.com/dnbd/dnbd/internal/layer/trace"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/source/file"
	"github.com/dnbd/dnbd/nbd"
)

// cowPerConnection is what --cow means without a folder.
const cowPerConnection = "connection"

// limitBurst is the part of a second's bytes that --rate lets pass at once after a pause.
const limitBurst = 8

// layerFlags are the layers around everything that is exported over NBD. The order from the device outward is: read-ahead, cache,
// copy-on-write, rate, delay, errors, log.
type layerFlags struct {
	readahead size.Bytes
	cache     size.Bytes
	cow       string
	rate      size.Rate
	delay     time.Duration
	errors    chance
	log       bool
}

// add gives them to a command, but for --rate, which the group has too.
func (f *layerFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.cow, "cow", "", "keep what NBD clients write apart from what is served: with `DIR`, in a file there for each export;\n"+
		"without, for each connection, as long as it lasts, in a file in $TMPDIR, or /tmp: mind that this may be small")
	flags.Lookup("cow").NoOptDefVal = cowPerConnection
	flags.Var(&f.cache, "cache", "keep what NBD clients read last in this much memory, `SIZE` for each export")
	flags.Var(&f.readahead, "readahead", "read up to `SIZE` ahead of NBD clients that read sequentially")
	flags.DurationVar(&f.delay, "delay", 0, "answer NBD clients this much later, such as 20ms: for tests")
	flags.Var(&f.errors, "error-rate", "let this part of NBD requests fail, such as 1%: for tests")
	flags.BoolVar(&f.log, "log", false, "log each NBD request")
	for _, name := range []string{"cache", "readahead", "error-rate"} {
		flags.Lookup(name).DefValue = "" // it says what a number is, and there is none
	}
}

// layerNames are the flags that make no sense without NBD clients.
var layerNames = []string{"cow", "cache", "readahead", "delay", "error-rate", "log"}

// check looks for values that make no sense.
func (f *layerFlags) check() error {
	switch {
	case f.cache < 0 || f.cache > 0 && f.cache < cached.BlockSize:
		return usagef("--cache %s: it holds blocks of %s, so at least one", f.cache.String(), size.Format(cached.BlockSize))
	case f.delay < 0:
		return usagef("--delay %v is negative", f.delay)
	}
	return nil
}

// export is how a device is exported, with its layers. It owns d from then on, also when it fails; release closes all of it.
func (f *layerFlags) export(ctx context.Context, x nbd.Export, d block.Device, log *slog.Logger) (_ nbd.Export, release func() error, err error) {
	log = log.With("export", x.Name)
	if f.readahead > 0 {
		d = readahead.New(d, int64(f.readahead))
	}
	if f.cache > 0 {
		d = cached.New(d, int64(f.cache))
	}
	switch f.cow {
	case "":
		d = f.above(d, log)
		x.Device = d
		return x, d.Close, nil
	case cowPerConnection:
		// Tried once now: a client hears little of why not.
		probe, err := file.Temporary("", d.Size())
		if err != nil {
			return x, nil, errors.Join(fmt.Errorf("--cow: %w; TMPDIR names the folder", err), d.Close())
		}
		if err := probe.Close(); err != nil {
			return x, nil, errors.Join(fmt.Errorf("--cow: %w", err), d.Close())
		}
		x.Device = nil
		x.Open = func(_ context.Context, client net.Addr) (nbd.Device, func(), error) {
			scratch, err := file.Temporary("", d.Size())
			if err != nil {
				return nil, nil, fmt.Errorf("copy-on-write: %w", err)
			}
			over, err := cow.Temporary(block.Borrow(d), scratch)
			if err != nil {
				return nil, nil, errors.Join(fmt.Errorf("copy-on-write: %w", err), scratch.Close())
			}
			own := f.above(over, log.With("client", client))
			return own, func() {
				if err := own.Close(); err != nil {
					log.Warn("close", "client", client, "error", err)
				}
			}, nil
		}
		return x, d.Close, nil
	}
	over, err := openOverlay(ctx, d, filepath.Join(f.cow, x.Name+".cow"), overlay.Base{Name: x.Name, Size: d.Size()})
	if err != nil {
		return x, nil, errors.Join(fmt.Errorf("--cow: %w", err), d.Close())
	}
	d = f.above(over, log)
	x.Device = d
	return x, func() error {
		// Without this a server that is told to stop would lose what a crash may lose.
		err := over.Flush(context.WithoutCancel(ctx))
		return errors.Join(err, d.Close())
	}, nil
}

// above puts the layers around d that see what clients ask for.
func (f *layerFlags) above(d block.Device, log *slog.Logger) block.Device {
	if f.rate > 0 {
		perSecond := max(int64(f.rate)/8, 1)
		d = limit.New(d, perSecond, max(perSecond/limitBurst, 1))
	}
	if f.delay > 0 {
		d = delay.New(d, f.delay, f.delay)
	}
	if f.errors > 0 {
		d = inject.New(d, float64(f.errors), syscall.EIO, rand.Uint64())
	}
	if f.log {
		d = trace.New(d, log)
	}
	return d
}

// chance is a flag's value from 0 to 1, which may be written in per cent.
type chance float64

// String implements pflag.Value.
func (c *chance) String() string { return strconv.FormatFloat(float64(*c)*100, 'g', -1, 64) + "%" }

// Set implements pflag.Value.
func (c *chance) Set(s string) error {
	number, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return errors.New("it is a part from 0 to 1, or from 0% to 100%")
	}
	*c = chance(v)
	return nil
}

// Type implements pflag.Value.
func (*chance) Type() string { return "part" }
