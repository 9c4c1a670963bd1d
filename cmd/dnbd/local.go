package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/source/file"
	"github.com/dnbd/dnbd/internal/source/remote"
	"github.com/dnbd/dnbd/internal/target"
	"github.com/dnbd/dnbd/nbd"
)

const (
	// copyPiece is how many bytes of a device are read at a time, and copyReaders how many pieces at once: enough to keep a
	// disk, or a server behind some milliseconds of network, busy.
	copyPiece   = 1 << 20
	copyReaders = 8
	// zeroPiece is the unit in which zero bytes are looked for that no map tells of.
	zeroPiece = 64 << 10
	// remoteConnections is how many connections are opened to an NBD server that allows several, and remoteReconnect how long is
	// tried to get back to one that is lost.
	remoteConnections = 4
	remoteReconnect   = 30 * time.Second
)

// isNBD says whether name is an NBD URI.
func isNBD(name string) bool {
	scheme, _, found := strings.Cut(strings.ToLower(name), "://")
	switch scheme {
	case "nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock":
		return found
	}
	return false
}

// isFile says whether name means a local file rather than an image of a group.
func isFile(name string) bool {
	if strings.HasPrefix(strings.ToLower(name), target.Scheme) || isNBD(name) {
		return false
	}
	if strings.ContainsRune(name, os.PathSeparator) {
		return true
	}
	_, err := os.Stat(image.SidecarPath(name))
	return err == nil
}

// replayFlag is the flag --replay: how much of what is written to an NBD server to keep until it is flushed.
type replayFlag size.Bytes

// add gives it to a command.
func (f *replayFlag) add(cmd *cobra.Command) {
	cmd.Flags().Var((*size.Bytes)(f), "replay", "keep up to `SIZE` of what was written to an NBD server until it is flushed there, and write it again\n"+
		"when the server was lost. Only where nobody else writes to the export")
	cmd.Flags().Lookup("replay").DefValue = "" // none
}

// check looks for a size that makes no sense.
func (f replayFlag) check(cmd *cobra.Command) error {
	if cmd.Flags().Changed("replay") && f < nbd.MinReplay {
		return usagef("--replay: it takes %s at least", size.Format(nbd.MinReplay))
	}
	return nil
}

// openRemote connects to an NBD export, with TLS as secure says if it is not nil, or else as the URI does.
func openRemote(ctx context.Context, uri string, secure *tls.Config, replay replayFlag, log *slog.Logger) (block.Device, error) {
	if _, err := nbd.ParseURI(uri); err != nil {
		return nil, usagef("%w", err)
	}
	d, err := remote.Open(ctx, uri, nbd.DialConfig{
		TLS: secure, Connections: remoteConnections, Reconnect: remoteReconnect, Replay: int64(replay), Log: log,
	})
	return d, whereToLook(uri, err)
}

// whereToLook adds to the error of connecting where to look for an export that the server does not have.
func whereToLook(uri string, err error) error {
	var socket *net.OpError
	var file *fs.PathError
	if !errors.Is(err, fs.ErrNotExist) || errors.As(err, &socket) || errors.As(err, &file) {
		return err
	}
	return fmt.Errorf("%w; see 'dnbd list %s'", err, uri)
}

// openLocal opens a file or block device to be read: as an image if it has a sidecar, so that all of it is checked.
func openLocal(path string) (block.Device, error) {
	m, err := image.Open(path)
	switch {
	case err == nil:
		return m, nil
	case !errors.Is(err, image.ErrNoSidecar):
		return nil, err
	}
	f, err := file.Open(path)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// copyDevice hands all bytes of a device to sink, several pieces at once and in no order.
func copyDevice(ctx context.Context, d block.Device, sink client.Sink) error {
	readers, ctx := errgroup.WithContext(ctx)
	readers.SetLimit(copyReaders)
	off, size := int64(0), d.Size()
	var failed error
	err := block.Lower{Device: d}.Extents(ctx, 0, size, func(n int64, _, zero bool) bool {
		end := min(off+n, size)
		if zero {
			failed = sink.Zero(off, end-off)
			off = end
		}
		for ; off < end && ctx.Err() == nil; off += copyPiece {
			at, n := off, min(copyPiece, end-off)
			readers.Go(func() error {
				p := make([]byte, n)
				if err := d.ReadAt(ctx, p, at); err != nil {
					return err
				}
				return writeSparse(sink, at, p)
			})
		}
		off = end
		return failed == nil && ctx.Err() == nil
	})
	return errors.Join(readers.Wait(), err, failed)
}

// writeSparse hands the bytes at off to sink, the zero ones as such.
func writeSparse(sink client.Sink, off int64, p []byte) error {
	var zeros [zeroPiece]byte
	for len(p) > 0 {
		zero := bytes.Equal(p[:min(zeroPiece, len(p))], zeros[:min(zeroPiece, len(p))])
		n := 0
		for n < len(p) {
			piece := p[n:min(n+zeroPiece, len(p))]
			if bytes.Equal(piece, zeros[:len(piece)]) != zero {
				break
			}
			n += len(piece)
		}
		var err error
		if zero {
			err = sink.Zero(off, int64(n))
		} else {
			err = sink.Write(off, p[:n])
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// deviceOf opens what a command calls by the name of a file or by an NBD URI.
func deviceOf(ctx context.Context, name string, log *slog.Logger) (block.Device, error) {
	switch {
	case isNBD(name):
		return openRemote(ctx, name, nil, 0, log)
	case strings.Contains(name, "://"):
		return nil, usagef("%s is neither an NBD URI nor a file", name)
	}
	return openLocal(name)
}
