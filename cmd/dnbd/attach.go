package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/target"
)

// attachOptions are what `dnbd attach` and DNBD's own client are told.
type attachOptions struct {
	imageFlags
	image     string
	device    string // empty: the driver chooses
	cache     string // a file; empty: in memory
	cacheSize size.Bytes
	cow       string // a file, or cowMemory; empty: read-only
	driver    string
	socket    string
	ioTimeout time.Duration
	wait      time.Duration // for a server; 0: for ever
	timeout   time.Duration // 0: the driver chooses
	resume    bool
	restart   bool // resume what there is to be resumed, and attach anew otherwise
	lock      bool // keep the process in memory
	swap      bool // the same, and alive when that gets short
	nbd       nbdOptions
	verbose   bool
}

// attachCommand is `dnbd attach`.
func attachCommand() *cobra.Command {
	var o attachOptions
	var foreground, report, supervise bool
	cmd := &cobra.Command{
		Use:   "attach [flags] IMAGE [DEVICE]",
		Short: "Make an image a block device, or a socket for NBD clients",
		Long: "Make an image a block device of this machine, or a socket for NBD clients, and print its path or URI once it can be\n" +
			"used. It is served by a process in the background until 'dnbd detach'. When no server answers reads wait.\n\n" +
			"IMAGE is " + target.Forms + ".\n" +
			"An export of any NBD server is named by its URI, such as nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH; where it\n" +
			"can be written to, so can the device. With driver nbd and without TLS the kernel talks to the server itself.\n" +
			"DEVICE is the path of the block device to make; by default the next free /dev/dnbdN.",
		Example: "  dnbd attach debian-12\n  dnbd attach nbd://server/films /dev/films\n" +
			"  dnbd attach --cache /var/cache/dnbd --cache-size 8G dnbd://239.0.0.7/films /dev/films\n" +
			"  dnbd attach --cow /var/lib/dnbd/debian.cow debian-12 /dev/root0\n  dnbd attach --driver socket --socket /tmp/films.sock films",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usagef("name the image, and perhaps the device to make: IMAGE [DEVICE]")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.image, o.verbose = args[0], verbose(cmd)
			if len(args) == 2 {
				o.device = args[1]
			}
			if err := o.check(cmd); err != nil {
				return err
			}
			switch {
			case supervise && (!foreground || o.device == ""):
				return usagef("--supervise: it takes --foreground, and the DEVICE that is to be taken over")
			case supervise:
				o.lock = true
				return o.supervise(cmd, newLog(cmd, slog.LevelInfo))
			case report:
				return o.serveReporting(cmd.Context(), cmd.OutOrStdout())
			case foreground:
				return o.serve(cmd.Context(), newLog(cmd, slog.LevelInfo), func(r ready) error { return r.write(cmd) })
			}
			r, err := o.background(cmd)
			if err != nil {
				return err
			}
			return r.write(cmd)
		},
	}
	o.add(cmd)
	f := cmd.Flags()
	f.StringVar(&o.cache, "cache", "", "keep blocks in `FILE`, over restarts too (default: in memory)")
	f.Var(&o.cacheSize, "cache-size", "make the cache this large (default: 64 MiB in memory, or as the file is)")
	f.StringVar(&o.cow, "cow", "", "let the device be written to, and keep that in `FILE`, over restarts too; mem keeps it in memory\n"+
		"until the device is detached")
	f.StringVar(&o.driver, "driver", attach.Auto, "attach by `DRIVER`: ublk, nbd or fuse, which make a block device and need root, socket, or auto, the best of these")
	f.StringVar(&o.socket, "socket", "", "make the socket at `PATH` (default: named after the image, in "+control.Dir()+"/nbd)")
	f.DurationVar(&o.ioTimeout, "io-timeout", 0, "let reads, and this command, fail when no server answers for this long, such as 30s (default: wait)")
	f.DurationVar(&o.wait, "wait", 0, "give up when no server has offered the image for this long (default: wait)")
	f.DurationVar(&o.timeout, "timeout", 0, "with driver nbd, send a request again that was not answered for this long (default: 30s);\n"+
		"below 10s, an NBD export that can be written to goes through the process, as with --relay")
	f.BoolVar(&o.resume, "resume", false, "take over DEVICE, whose process has ended, with the same image: what waits for it goes on")
	f.BoolVar(&o.restart, "restart", false, "as --resume if a process that has ended left DEVICE, and attach it otherwise: for service managers")
	f.BoolVar(&o.lock, "lock-memory", false, "keep the process in memory: the device carries the root, or whatever else the process itself\n"+
		"would be read from")
	f.BoolVar(&o.swap, "swap", false, "as --lock-memory, and keep the process alive when memory gets short: the device carries swap")
	o.nbd.add(cmd)
	f.BoolVar(&supervise, "supervise", false, "as --lock-memory, in a process of its own, which is started again when it dies, without anything\n"+
		"that would be read from the device: it carries the root")
	f.BoolVar(&foreground, "foreground", false, "do not go to the background")
	f.BoolVar(&report, "report", false, "be the process in the background, and tell the other one on standard output")
	f.Lookup("cache-size").DefValue = "" // said in the text
	_ = f.MarkHidden("report")           // it fails for a flag that is not there
	return cmd
}

// check looks for what is wrong or contradictory, and makes relative paths absolute.
func (o *attachOptions) check(cmd *cobra.Command) error {
	if err := o.checkImage(cmd); err != nil {
		return err
	}
	if err := o.trustFlags.check(); err != nil {
		return err
	}
	switch {
	case o.wait < 0:
		return usagef("--wait %v is negative", o.wait)
	case o.timeout < 0:
		return usagef("--timeout %v is negative", o.timeout)
	case (o.resume || o.restart) && o.device == "":
		return usagef("--resume and --restart: name the DEVICE that is to be taken over")
	case o.resume && o.restart:
		return usagef("--resume and --restart contradict each other: name one of them")
	case cmd.Flags().Changed("cache-size") && o.cacheSize <= 0:
		return usagef("--cache-size %s: a cache has to hold something", o.cacheSize.String())
	case o.ioTimeout < 0:
		return usagef("--io-timeout %v is negative", o.ioTimeout)
	case o.socket != "" && o.driver != socketDriver && o.driver != attach.Auto:
		return usagef("--socket and --driver %s contradict each other: that driver makes a block device", o.driver)
	case o.socket != "" && o.device != "":
		return usagef("--socket %s and DEVICE %s contradict each other: name one of them", o.socket, o.device)
	case o.device != "" && o.driver == "socket":
		return usagef("DEVICE %s and --driver socket contradict each other: name the socket with --socket", o.device)
	case o.socket != "":
		o.driver = "socket"
	}
	names := []string{attach.Auto}
	for _, d := range drivers() {
		names = append(names, d.Name())
	}
	if !slices.Contains(names, o.driver) {
		return usagef("--driver %s: there are %s", o.driver, strings.Join(names, ", "))
	}
	paths := []*string{&o.device, &o.key, &o.cache, &o.cow, &o.socket, &o.tls.ca, &o.tls.cert, &o.tls.key}
	for _, path := range paths {
		if *path == "" || path == &o.cow && o.cow == cowMemory {
			continue
		}
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = absolute
	}
	return nil
}

// candidates are the drivers that can do what is asked for.
func (o *attachOptions) candidates() []attach.Driver {
	all := drivers()
	if o.device != "" {
		all = slices.DeleteFunc(all, func(d attach.Driver) bool { return d.Name() == socketDriver })
	}
	if o.resume || o.restart {
		for _, d := range all {
			if claim.Exists(claims(), d.Name(), o.device) {
				return []attach.Driver{d} // no other can take it over
			}
		}
	}
	return all
}

// id is what a device is known by when it is to be taken over: one that can be written to is not taken over as one that
// cannot.
func (o *attachOptions) id(of string) string {
	if o.cow != "" {
		return of + "+cow"
	}
	return of
}

// times are the limits that the driver is told.
func (o *attachOptions) times() attach.Times {
	return attach.Times{Request: o.timeout, Dead: o.ioTimeout}
}

// ready is what there is to say of an attachment that can be used.
type ready struct {
	Device  string   `json:"device"`
	URI     string   `json:"uri"` // for NBD clients, with the socket driver
	Image   string   `json:"image"`
	Network string   `json:"network"` // in which group on which interfaces, or from which hosts
	Servers []uint16 `json:"servers"` // that offered it
	Why     []string `json:"why"`     // which driver was taken, and which not
}

// write prints the address of the attachment for people and programs, and for people what it is and by which driver.
func (r ready) write(cmd *cobra.Command) error {
	where := ""
	if r.Network != "" {
		where = " " + r.Network
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "dnbd: %s%s; %s\n", r.Image, where, strings.Join(r.Why, "; "))
	address := r.Device
	if r.URI != "" {
		address = r.URI
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), address)
	return err
}
