//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/internal/size"
	"golang.org/x/sys/unix"
)

// room is a network with a server that serves and clients that have the image mounted.
type room struct {
	options
	lab   *lab.Lab
	image string
}

// inRoom shows clients in a network of namespaces.
func inRoom(ctx context.Context, o options, made *cleanup) error {
	r := &room{options: o, image: filepath.Join(o.dir, imageName+".squashfs")}
	files, err := r.prepare(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("Building a network of namespaces: a server behind a port of %v, %d clients.\n", &o.rate, o.clients)
	if r.lab, err = lab.New(lab.Options{Clients: o.clients, ServerRate: int64(o.rate)}); err != nil {
		return err
	}
	made.add(r.lab.Close)
	fmt.Printf("s1: dnbd serve --group %s %s=%s\n", group, imageName, filepath.Base(r.image))
	server, err := startServer(ctx, func(ctx context.Context) *exec.Cmd {
		return r.lab.Command(ctx, "s1", r.program, "serve", "--group", group, imageName+"="+r.image)
	})
	if err != nil {
		return err
	}
	made.add(server.stop)

	var readers []*reader
	for i, hand := range deal(files, o.clients) {
		readers = append(readers, &reader{name: r.lab.Clients()[i], files: hand})
	}
	for _, c := range readers {
		if err := r.attach(ctx, c.name, made); err != nil {
			return err
		}
	}
	fmt.Print("Each of them has the image as a block device and mounted it. Now all read at once: two thirds of the files all of\n" +
		"them, the rest one of them each. A client keeps what it asked for, and what it overhears because another asked.\n\n")
	return r.show(ctx, readers)
}

// prepare makes the image and returns the files in it.
func (r *room) prepare(ctx context.Context) ([]file, error) {
	trees, files, err := choose(ctx, int64(r.bytes))
	if err != nil {
		return nil, err
	}
	fmt.Printf("Making an image of %d files of this machine.\n", len(files))
	if err := makeImage(ctx, r.image, trees); err != nil {
		return nil, err
	}
	if err := sumAll(ctx, files); err != nil {
		return nil, err
	}
	info, err := os.Stat(r.image)
	if err != nil {
		return nil, err
	}
	fmt.Printf("It is a squashfs, not compressed, of %s.\n", size.Format(info.Size()))
	return files, nil
}

// attach attaches the image at a client and mounts it.
func (r *room) attach(ctx context.Context, client string, made *cleanup) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	device, dir := r.device(client), r.mountPoint(client)
	uri := "dnbd://" + group + "/" + imageName
	fmt.Printf("%s: dnbd attach %s; mount\n", client, uri)
	err := do(ctx, func(ctx context.Context) *exec.Cmd {
		return r.lab.Command(ctx, client, r.program, "attach", "--io-timeout", patience.String(), uri, device)
	})
	if err != nil {
		return err
	}
	made.add(func() error { return r.detach(ctx, device) })
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	// From here on nothing knows of dnbd: it is a disk.
	target, err := filepath.EvalSymlinks(device)
	if err != nil {
		return err
	}
	if err := unix.Mount(target, dir, "squashfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount %s as squashfs: %w", target, err)
	}
	made.add(func() error {
		if err := unix.Unmount(dir, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	})
	return nil
}

// detach detaches a device that is no longer mounted. It tries more than once, as others may look at it for a moment: udev, or
// a program that made a mount namespace meanwhile.
func (r *room) detach(ctx context.Context, device string) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Second) {
		err := do(ctx, func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, r.program, "detach", device) })
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// diskSuffix ends the name of a client's device.
const diskSuffix = ".disk"

func (r *room) device(client string) string     { return filepath.Join(r.dir, client+diskSuffix) }
func (r *room) mountPoint(client string) string { return filepath.Join(r.dir, client) }

// clientOf is the client whose device it is.
func clientOf(device string) string { return strings.TrimSuffix(filepath.Base(device), diskSuffix) }

// show lets all clients read, shows how, and ends with the sums.
func (r *room) show(ctx context.Context, readers []*reader) error {
	before, err := r.lab.TxBytes("s1")
	if err != nil {
		return err
	}
	started := time.Now()
	screen := newScreen(os.Stdout, readers, started)
	carried := func() (int64, error) {
		n, err := r.lab.TxBytes("s1")
		return n - before, err
	}
	errs := make([]error, len(readers))
	var wg sync.WaitGroup
	for i, c := range readers {
		wg.Go(func() { errs[i] = c.read(ctx, r.mountPoint(c.name)) })
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for reading := true; reading; {
		select {
		case <-tick.C:
		case <-done:
			reading = false
		}
		n, err := carried()
		if err != nil {
			errs = append(errs, err)
			break
		}
		if ctx.Err() == nil {
			screen.draw(ctx, n, !reading)
		}
	}
	<-done
	took := time.Since(started)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	n, err := carried()
	if err != nil {
		return err
	}
	summarize(os.Stdout, readers, n, took)
	return nil
}
