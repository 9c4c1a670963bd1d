package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach"
	kernelnbd "github.com/dnbd/dnbd/internal/attach/nbd"
	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/source/remote"
	"github.com/dnbd/dnbd/internal/target"
	"github.com/dnbd/dnbd/nbd"
)

// patientReconnect is how long a device waits for its NBD server where no time limit is set.
const patientReconnect = 100 * 365 * 24 * time.Hour

// nbdOptions are what `dnbd attach` is told about an NBD server. Those without a flag in add's first half are nbd-client's, for
// whom they are hidden.
type nbdOptions struct {
	connections int
	readOnly    bool
	relay       bool
	replay      replayFlag

	mark      bool // the process is not to be killed at shutdown
	blockSize int
	size      int64
	noGo      bool
}

// add gives the flags to a command.
func (n *nbdOptions) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&n.connections, "connections", 0, "open `N` connections to an NBD server that allows several (default: 4, with --swap 1)")
	f.BoolVar(&n.readOnly, "read-only", false, "attach an NBD export that can be written to so that it cannot")
	f.BoolVar(&n.relay, "relay", false, "have an NBD export go through the process even if the kernel could talk to the server itself:\n"+
		"what a server refuses because it is shutting down is tried again then")
	n.replay.add(cmd)
	f.BoolVar(&n.mark, "systemd-mark", false, "")
	f.IntVar(&n.blockSize, "nbd-block-size", 0, "")
	f.Int64Var(&n.size, "nbd-size", 0, "")
	f.BoolVar(&n.noGo, "nbd-no-go", false, "")
	for _, name := range []string{"systemd-mark", "nbd-block-size", "nbd-size", "nbd-no-go"} {
		_ = f.MarkHidden(name) // it fails for a flag that is not there
	}
	f.Lookup("connections").DefValue = "" // said in the text
}

// args are the flags of the process in the background.
func (n *nbdOptions) args() (args []string) {
	for _, v := range []struct {
		flag string
		set  bool
		text string
	}{
		{"connections", n.connections > 0, strconv.Itoa(n.connections)},
		{"read-only", n.readOnly, "true"},
		{"relay", n.relay, "true"},
		{"replay", n.replay > 0, strconv.FormatInt(int64(n.replay), 10)},
		{"systemd-mark", n.mark, "true"},
		{"nbd-block-size", n.blockSize > 0, strconv.Itoa(n.blockSize)},
		{"nbd-size", n.size > 0, strconv.FormatInt(n.size, 10)},
		{"nbd-no-go", n.noGo, "true"},
	} {
		if v.set {
			args = append(args, "--"+v.flag+"="+v.text)
		}
	}
	return args
}

// argv0 is the name of the process in the background: systemd leaves those alone at shutdown whose name begins with an @.
func (n *nbdOptions) argv0() string {
	if n.mark {
		return "@dnbd"
	}
	return "dnbd"
}

// checkImage looks for what is wrong with the name of what is to be attached, and with the flags for its kind.
func (o *attachOptions) checkImage(cmd *cobra.Command) error {
	if err := o.imageFlags.check(o.image, isNBD(o.image)); err != nil {
		return err
	}
	if !isNBD(o.image) {
		if _, err := target.Parse(o.image); err != nil {
			return usagef("%w", err)
		}
		for _, name := range []string{"connections", "read-only", "relay", "replay", "swap"} {
			if cmd.Flags().Changed(name) {
				return usagef("--%s is for exports of NBD servers, and %s is an image of a group", name, o.image)
			}
		}
		return nil
	}
	if _, err := nbd.ParseURI(o.image); err != nil {
		return usagef("%w", err)
	}
	for _, name := range []string{"group", "iface", "group-key", "cache", "cache-size", "wait", "trust", "allow-rollback"} {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed {
			return usagef("--%s is for images of a group, and %s is an export of an NBD server", name, o.image)
		}
	}
	if o.nbd.connections < 0 {
		return usagef("--connections %d: it is a number from 1", o.nbd.connections)
	}
	if o.nbd.replay > 0 && (o.nbd.readOnly || o.cow != "") {
		return usagef("--replay is for what is written to the server: leave out --read-only and --cow")
	}
	return o.nbd.replay.check(cmd)
}

// dial is how to talk to the server.
func (o *attachOptions) dial(log *slog.Logger) (nbd.DialConfig, error) {
	config := nbd.DialConfig{Connections: o.nbd.connections, Reconnect: patientReconnect, Replay: int64(o.nbd.replay), NoGo: o.nbd.noGo, Log: log}
	switch {
	case config.Connections != 0:
	case o.swap:
		config.Connections = swapConnections
	default:
		config.Connections = remoteConnections
	}
	if o.ioTimeout > 0 {
		config.Reconnect = o.ioTimeout
	}
	var err error
	config.TLS, err = o.tls.config()
	return config, err
}

// serveRemote is serve for an export of an NBD server.
func (o *attachOptions) serveRemote(ctx context.Context, log *slog.Logger, report func(ready) error) (err error) {
	candidates := o.candidates()
	// The kernel had better talk to the server itself.
	slices.SortStableFunc(candidates, func(a, b attach.Driver) int { return cmp.Compare(rank(a), rank(b)) })
	driver, why, err := attach.Choose(o.driver, candidates)
	if err != nil {
		return err
	}
	config, err := o.dial(log)
	if err != nil {
		return err
	}
	u, err := nbd.ParseURI(o.image)
	if err != nil {
		return err
	}
	if o.swap {
		if err := elsewhere(ctx, u); err != nil {
			return fmt.Errorf("--swap: %w", err)
		}
	}
	a := &attachment{remote: o.image, started: time.Now()}
	options := attach.Options{
		Device: o.device, Socket: o.socket, Name: strings.Trim(u.Host+"-"+u.Export, "-"), ID: o.id(o.image),
		Times: o.times(), Log: log,
	}
	if k, ok := driver.(*kernelnbd.Driver); ok && !o.nbd.relay && o.nbd.replay == 0 && o.cow == "" {
		how := kernelnbd.RemoteOptions{Dial: config, ReadOnly: o.nbd.readOnly, BlockSize: o.nbd.blockSize, Size: o.nbd.size}
		a.device, err = o.take(options, func(options attach.Options) (attach.Attachment, error) {
			return k.AttachRemote(ctx, o.image, how, options)
		})
		switch {
		case err == nil:
			why = append(why, "the kernel talks to the server itself")
		case errors.Is(err, errors.ErrUnsupported):
			why = append(why, fmt.Sprintf("through this process: %v", err))
		default:
			return err
		}
	}
	if a.device == nil && o.swap {
		return errSwapProcess
	}
	if a.device == nil {
		dev, err := o.open(ctx, config)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dev.Close()) }()
		if a.overlay, err = o.openOverlay(ctx, dev, o.image); err != nil {
			return err
		}
		if a.overlay != nil {
			dev = a.overlay
			defer func() { err = a.overlay.end(o.cow == cowMemory, err) }()
		}
		a.device, err = o.take(options, func(options attach.Options) (attach.Attachment, error) {
			return driver.Attach(ctx, dev, options)
		})
		if err != nil {
			return err
		}
		a.size = dev.Size()
	}
	if driver.Name() == socketDriver {
		a.uri = nbdURI(a.device.Path())
	}
	return a.run(ctx, log, func() error {
		return report(ready{Device: a.device.Path(), URI: a.uri, Image: o.image, Why: why, Servers: []uint16{}})
	})
}

// rank orders drivers for exports of NBD servers.
func rank(d attach.Driver) int {
	if d.Name() == nbdDriver {
		return 0
	}
	return 1
}

// open opens the export in this process.
func (o *attachOptions) open(ctx context.Context, config nbd.DialConfig) (block.Device, error) {
	if o.nbd.size != 0 || o.nbd.blockSize != 0 {
		return nil, errors.New("another size or block size is for what the kernel talks to itself: with driver nbd, and without TLS, --cow and a short --timeout")
	}
	dev, err := remote.Open(ctx, o.image, config)
	if err == nil && (o.nbd.readOnly || o.cow != "") {
		dev = block.ReadOnly(dev)
	}
	return dev, err
}

// set changes the time limits.
func (a *attachment) set(r control.Set) error {
	d, ok := a.device.(attach.Adjuster)
	if r.Timeout > 0 && !ok {
		return fmt.Errorf("driver %s has no --timeout", a.device.Driver())
	}
	if ok {
		if err := d.Adjust(attach.Times{Request: r.Timeout, Dead: r.IOTimeout}); err != nil {
			return err
		}
	}
	if a.client != nil && r.IOTimeout > 0 {
		a.client.SetIOTimeout(r.IOTimeout)
	}
	return nil
}

// remoteStatus is status for an export of an NBD server.
func (a *attachment) remoteStatus() control.Status {
	st := &control.Attachment{
		Device: a.device.Path(), Driver: a.device.Driver(), URI: a.uri, Target: a.remote,
		Image: control.Image{Name: a.remote, Size: a.size}, Replicas: []control.Replica{}, Kernel: kernelStatus(a.device),
		Overlay: a.overlay.status(),
	}
	return control.Status{Version: version, Started: a.started.UTC(), Interfaces: []string{}, Log: a.logFile, Attachment: st}
}

// kernelStatus is what the driver tells of the kernel's device, nil where it tells nothing.
func kernelStatus(d attach.Attachment) *control.Kernel {
	in, ok := d.(attach.Inspector)
	if !ok {
		return nil
	}
	i := in.Inspect()
	k := &control.Kernel{
		Device: i.Kernel, Timeout: seconds(i.Times.Request), DeadTimeout: seconds(i.Times.Dead), Features: i.Features,
		Requests: i.Requests, Errors: i.Errors, Outstanding: i.Outstanding, Oldest: seconds(i.Oldest), Lost: i.Lost, LastLost: i.LastLost,
		Connections: []control.Connection{},
	}
	for _, c := range i.Connections {
		k.Connections = append(k.Connections, control.Connection{Peer: c.Peer, Alive: c.Alive, Since: c.Since.UTC(), RTT: c.RTT.Microseconds()})
	}
	return k
}

// seconds is a time in seconds, to the millisecond.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// writeRemote prints the attachment of an export for people.
func writeRemote(b *strings.Builder, st control.Status) {
	a := st.Attachment
	fmt.Fprintf(b, "%s  %s, driver %s, process %d for %v\n", a.Device, a.Target, a.Driver, st.PID, age(st.Started))
	if a.URI != "" {
		fmt.Fprintf(b, "  uri       %s\n", a.URI)
	}
	if a.Image.Size > 0 {
		fmt.Fprintf(b, "  size      %s, through the process\n", size.Format(a.Image.Size))
	}
	writeOverlay(b, a.Overlay)
	writeKernel(b, a.Kernel)
	if st.Log != "" {
		fmt.Fprintf(b, "  log       %s\n", st.Log)
	}
}

// writeKernel prints the kernel's device for people.
func writeKernel(b *strings.Builder, k *control.Kernel) {
	if k == nil {
		return
	}
	oldest := ""
	if k.Oldest > 0 {
		oldest = fmt.Sprintf(", the oldest for %v", duration(k.Oldest).Round(time.Millisecond))
	}
	fmt.Fprintf(b, "  kernel    %s; %d requests, %d failed, %d outstanding%s\n", k.Device, k.Requests, k.Errors, k.Outstanding, oldest)
	forever := "for ever"
	if k.DeadTimeout < seconds(patientReconnect)/2 {
		forever = duration(k.DeadTimeout).String()
	}
	if k.Timeout > 0 {
		fmt.Fprintf(b, "  limits    a request is sent again after %v, and waits for a connection %s\n", duration(k.Timeout), forever)
	}
	if len(k.Features) > 0 {
		fmt.Fprintf(b, "  features  %s\n", strings.Join(k.Features, ", "))
	}
	for _, c := range k.Connections {
		peer, state := c.Peer, "lost"
		if peer == "" {
			peer = "a peer that an earlier process connected to"
		}
		if c.Alive {
			state = "alive"
		}
		rtt := ""
		if c.RTT > 0 {
			rtt = fmt.Sprintf(", RTT %v", time.Duration(c.RTT)*time.Microsecond)
		}
		fmt.Fprintf(b, "  link      %s, %s for %v%s\n", peer, state, age(c.Since), rtt)
	}
	if k.Lost > 0 {
		fmt.Fprintf(b, "  lost      %d connections so far: %s\n", k.Lost, k.LastLost)
	}
}

// duration is a number of seconds as a time.
func duration(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
