//go:build linux

package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/size"
)

// onLoopback shows a server and processes that copy its image at the same time, on the loopback interface.
func onLoopback(ctx context.Context, o options, made *cleanup) error {
	image := filepath.Join(o.dir, imageName+".tar")
	_, files, err := choose(ctx, int64(o.bytes))
	if err != nil {
		return err
	}
	if err := archive(ctx, image, files); err != nil {
		return err
	}
	sum, err := sumOf(image, io.Discard)
	if err != nil {
		return err
	}
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	fmt.Printf("The image is a tar of files of this machine, of %s.\n", size.Format(info.Size()))

	uri := "dnbd://" + group + "/"
	server, err := startServer(ctx, func(ctx context.Context) *exec.Cmd {
		return exec.CommandContext(ctx, o.program, "serve", "--iface", "lo", "--group", group, "--rate", "1Gbit", imageName+"="+image)
	})
	if err != nil {
		return err
	}
	made.add(server.stop)
	fmt.Printf("dnbd list --iface lo %s\n", uri)
	out, err := exec.CommandContext(ctx, o.program, "list", "--iface", "lo", uri).CombinedOutput()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("multicast does not work on the loopback interface here: dnbd list: %w: %s", err, out)
	}
	fmt.Printf("%s\n", out)

	fmt.Printf("%d times at once: dnbd copy --iface lo %s%s\n", o.clients, uri, imageName)
	started := time.Now()
	reports := make([]copyReport, o.clients)
	errs := make([]error, o.clients)
	var wg sync.WaitGroup
	for i := range o.clients {
		wg.Go(func() {
			reports[i], errs[i] = copyImage(ctx, o, uri+imageName, filepath.Join(o.dir, fmt.Sprint("copy", i+1)), sum)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	took := time.Since(started)
	var read int64
	for i, r := range reports {
		fmt.Printf("copy %d  %s in %.1f s: asked for %s, overheard %s\n", i+1, size.Format(r.Bytes), r.Seconds,
			size.Format(r.Wanted), size.Format(r.Overheard))
		read += r.Bytes
	}
	sent, err := sentBy(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\n%d copies, %s together, in %.1f s; the server sent %s: %.1f times less. All are equal to the original.\n",
		o.clients, size.Format(read), took.Seconds(), size.Format(sent), float64(read)/float64(sent))
	return nil
}

// copyReport is what of the report of `dnbd copy --json` is of interest here.
type copyReport struct {
	Bytes, Wanted, Overheard int64
	Seconds                  float64
}

// copyImage copies the image to dest, and checks it.
func copyImage(ctx context.Context, o options, uri, dest string, sum [32]byte) (r copyReport, err error) {
	cmd := exec.CommandContext(ctx, o.program, "copy", "--iface", "lo", "--json", uri, dest)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return r, fmt.Errorf("copy to %s: %w", dest, err)
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("copy to %s: read its report: %w", dest, err)
	}
	got, err := sumOf(dest, io.Discard)
	if err == nil && got != sum {
		err = fmt.Errorf("%s has other bytes than the image", dest)
	}
	return r, err
}

// sentBy is how many bytes the server has sent.
func sentBy(ctx context.Context) (n int64, err error) {
	processes, _, err := control.List(ctx)
	if err != nil {
		return 0, err
	}
	for _, p := range processes {
		if p.Status.Server != nil {
			for _, l := range p.Status.Server.Links {
				n += int64(l.Sent)
			}
		}
	}
	if n == 0 {
		return 0, errors.New("the server does not say what it sent")
	}
	return n, nil
}

// archive makes a tar of files, without those that this user may not read.
func archive(ctx context.Context, path string, files []file) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		in, err := os.Open(f.path)
		if errors.Is(err, os.ErrPermission) {
			continue
		} else if err != nil {
			return err
		}
		err = w.WriteHeader(&tar.Header{Name: f.path[1:], Mode: 0o644, Size: f.size})
		if err == nil {
			_, err = io.Copy(w, io.LimitReader(in, f.size))
		}
		if err = errors.Join(err, in.Close()); err != nil {
			return fmt.Errorf("archive %s: %w", f.path, err)
		}
	}
	return w.Close()
}
