//go:build linux

// Command play boots a virtual machine and gives its console to the terminal: a shell with busybox and dnbd. As root it is in a
// network with a server, and with an image that it can attach. poweroff -f ends it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/term"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

func main() {
	kernel := flag.String("kernel", string(vm.Backports), "suite of Debian that the kernel is of")
	image := flag.String("image", "", "file to serve to the machine's group")
	flag.Parse()
	if err := play(vm.Kernel(*kernel), *image); err != nil {
		fmt.Fprintln(os.Stderr, "play:", err)
		os.Exit(1)
	}
}

func play(kernel vm.Kernel, image string) (err error) {
	if why := vm.Missing(); why != "" {
		return errors.New("a virtual machine " + why)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := os.MkdirTemp("", "dnbd-play-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	rack, err := vm.NewRack(dir)
	if err != nil {
		return err
	}
	o := vm.Options{
		Modules:  []string{"nbd", "fuse", "loop", "overlay", "erofs", "squashfs", "ext4"},
		Loadable: []string{"dm_mod", "raid1", "raid456"},
		Keys:     os.Stdin, Screen: os.Stdout, Memory: 512,
	}
	if kernel == vm.Backports {
		o.Modules = append(o.Modules, "ublk_drv")
	}
	if why := lab.Missing(); why != "" {
		fmt.Printf("no network, which %s\n", why)
	} else {
		l, err := lab.New(lab.Options{VMs: 1})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, l.Close()) }() // with the server
		o.Lab, o.Host = l, "v1"
		if image != "" {
			server := l.Command(ctx, "s1", rack.Dnbd(), "serve", image)
			server.Env = append(os.Environ(), "DNBD_RUNDIR="+filepath.Join(dir, "run"))
			if err := server.Start(); err != nil {
				return err
			}
			fmt.Printf("%v serves %s\n", l.Addr("s1"), image)
		}
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		before, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return err
		}
		defer term.Restore(int(os.Stdin.Fd()), before)
	}
	guest, err := rack.Start(ctx, kernel, o)
	if guest != nil {
		defer func() { err = errors.Join(err, guest.Kill()) }()
	}
	if err != nil {
		return err
	}
	if err := guest.AwaitEnd(ctx); ctx.Err() == nil {
		return err
	}
	return nil // it was told to end
}
