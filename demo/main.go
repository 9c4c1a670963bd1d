//go:build linux

// Command demo shows dnbd at work on one machine: a network of namespaces with a server and some clients, a real image of
// this machine's own files, and what the network carries when all clients read it. `make run` runs it.
//
// Where it may not build networks and devices it shows what can be shown on the loopback interface, and says what is left out.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/size"
)

// group is where the demo's server and clients meet: not the default, so as not to disturb servers of this machine.
const group = "239.77.0.1"

// imageName is what the demo's image is called.
const imageName = "files"

// options are what the user may set.
type options struct {
	program string // dnbd
	clients int
	rate    size.Rate  // of the server's port
	bytes   size.Bytes // of files in the image, about
	dir     string     // for everything that is made
}

func main() {
	o := options{clients: 4, rate: 200e6, bytes: 240 << 20}
	flag.StringVar(&o.program, "dnbd", "bin/dnbd", "the dnbd to show")
	flag.IntVar(&o.clients, "clients", o.clients, "how many clients there are")
	flag.Var(&o.rate, "rate", "what the server's port lets through")
	flag.Var(&o.bytes, "bytes", "how many bytes of files the image has, about")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var made cleanup
	err := run(ctx, o, &made)
	left := made.run()
	if left != nil {
		fmt.Fprintln(os.Stderr, "demo: clean up:", left)
	}
	switch {
	case err == nil:
	case ctx.Err() == nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
	case left == nil:
		fmt.Println("\nInterrupted; everything was removed.")
	}
	if err != nil || left != nil {
		os.Exit(1)
	}
}

// run makes an image and shows it. What it makes on this machine is added to made.
func run(ctx context.Context, o options, made *cleanup) (err error) {
	if o.clients < 1 {
		return fmt.Errorf("-clients %d: at least one", o.clients)
	}
	if o.program, err = filepath.Abs(o.program); err != nil {
		return err
	}
	if _, err := os.Stat(o.program); err != nil {
		return fmt.Errorf("%w; `make build` makes it", err)
	}
	if o.dir, err = os.MkdirTemp("", "dnbd-demo-"); err != nil {
		return err
	}
	made.dir = o.dir
	// The demo's processes are kept apart from those that this machine may be running in earnest.
	if err := os.Setenv("DNBD_RUNDIR", filepath.Join(o.dir, "run")); err != nil {
		return err
	}
	if _, err := control.MakeDir(); err != nil {
		return err
	}
	if why := roomMissing(); why != "" {
		fmt.Printf("This %s. So there will be no network of its own, no block device and no mount; what follows\n"+
			"runs between processes on the loopback interface. As root on Debian, `make run` shows all of it.\n\n", why)
		return onLoopback(ctx, o, made)
	}
	return inRoom(ctx, o, made)
}

// roomMissing says what keeps the demo from building a network and attaching devices, or nothing.
func roomMissing() string {
	if why := lab.Missing(); why != "" {
		return why
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(path); err != nil {
			return "needs " + path + " (modprobe fuse loop)"
		}
	}
	return ""
}
