package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/server"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/target"
)

// serveOptions are what `dnbd serve` and DNBD's own server are told.
type serveOptions struct {
	groupFlags
	exportFlags
	querier querierFlag
	group   string
	id      uint16
	threads int
	rate    size.Rate
	status  string
	pidFile string
	files   []string // FILE or NAME=FILE
}

// serveCommand is `dnbd serve`.
func serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [flags] FILE|NAME=FILE ...",
		Short: "Serve images to a group, and over NBD",
		Long: "Serve files or block devices to a group until the process is told to stop. One that has no sidecar yet is hashed\n" +
			"first ('dnbd image create' does it beforehand). A file that changes meanwhile is withdrawn, hashed again, and\n" +
			"offered as the next revision. A second server with the same file, under another id, shares the work.\n" +
			"NAME=FILE serves it under NAME; a sidecar that says another name keeps it.\n\n" +
			"With --nbd they are exported to NBD clients, too. With --group none they are only that, as they are and without\n" +
			"being hashed, and can be --writable.",
		Example: "  dnbd serve debian-12.img\n  dnbd serve --iface eth0 --rate 500Mbit --group 239.0.0.7 films=/dev/vg0/films\n" +
			"  dnbd serve --nbd :10809 debian-12.img\n  dnbd serve --group none --nbd unix:/run/disk.sock --writable disk.img",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usagef("name the files or block devices to serve")
			case cmd.Flags().Changed("id") && o.id == 0:
				return usagef("--id 0: ids count from 1; leave it out to have a free one chosen")
			case o.group == noGroup && o.key != "":
				return usagef("--group-key and --group none contradict each other: over NBD it is TLS that keeps strangers out")
			case o.threads < 0:
				return usagef("--threads %d: it is a number from 1, or 0 for as many as fit the machine", o.threads)
			}
			if err := o.exportFlags.check(cmd, o.group != noGroup); err != nil {
				return err
			}
			if err := o.querier.check(cmd, o.group != noGroup); err != nil {
				return err
			}
			o.files = args
			err := o.start(cmd)
			if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
				return nil // told to stop before it was ready
			}
			return err
		},
	}
	o.groupFlags.add(cmd)
	o.exportFlags.add(cmd)
	o.querier.add(cmd)
	cmd.Flags().StringVar(&o.group, "group", "", "serve the multicast group `ADDR[:PORT]` (default "+target.DefaultGroup().String()+"), or "+noGroup)
	cmd.Flags().Uint16Var(&o.id, "id", 0, "be server `N` of the group, from 1 to 65535 (default: one that is free)")
	cmd.Flags().IntVar(&o.threads, "threads", 0, "read with `N` threads (default: as many as there are processors, at least 4)")
	cmd.Flags().Var(&o.rate, "rate", "send at this `RATE` at most, such as 200Mbit (default: what the receivers can take)")
	cmd.Flags().Lookup("rate").DefValue = "" // said in the text
	cmd.Flags().StringVar(&o.status, "status", "", "answer GET /status on TCP `ADDR:PORT` with what 'dnbd status --json' shows of this server")
	cmd.Flags().StringVar(&o.pidFile, "pid-file", "", "write the process's number to `FILE` once it serves")
	return cmd
}

// noGroup is the --group of a server that only exports over NBD.
const noGroup = "none"

// start is run, with nothing said to a client on standard input.
func (o *serveOptions) start(cmd *cobra.Command) error {
	if !o.stdin() {
		return o.run(cmd)
	}
	return sparingClient(cmd, func() error { return o.run(cmd) })
}

// run serves until the command's context ends.
func (o *serveOptions) run(cmd *cobra.Command) (err error) {
	ctx, log := cmd.Context(), newLog(cmd, slog.LevelInfo)
	if o.writable || o.cow != "" {
		takeWrites(log)
	}
	sources, err := parseSources(o.files)
	if err != nil {
		return err
	}
	for _, src := range sources {
		if isNBD(src.path) && o.group != noGroup {
			return usagef("%s: what another NBD server exports can be served with --group none only", src.path)
		}
	}
	if o.replay > 0 && !slices.ContainsFunc(sources, func(s source) bool { return isNBD(s.path) }) {
		return usagef("--replay is for what is written to another NBD server: name its URI")
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	cfg := server.Config{ID: o.id, Rate: uint64(o.rate), Threads: o.threads, Log: log}
	if o.group != noGroup {
		if cfg.Group, err = target.ParseGroup(o.group); err != nil {
			return usagef("--group: %w", err)
		}
		n, err := o.network(cfg.Group, log)
		if err != nil {
			return err
		}
		cfg.Interfaces, cfg.Keys = n.Interfaces, n.Keys
		if cfg.Allow, err = o.networks(); err != nil {
			return err
		}
	}
	asking, err := o.querier.open(cfg.Interfaces, log)
	if err != nil {
		return fmt.Errorf("--querier: %w", err)
	}
	defer asking.close()
	var status net.Listener
	if o.status != "" {
		if status, err = net.Listen("tcp", o.status); err != nil {
			return fmt.Errorf("--status %s: %w", o.status, err)
		}
		defer status.Close()
	}
	operators, err := o.exportFlags.openOperators(ctx, log)
	if err != nil {
		return err
	}
	defer operators.close()
	o.exportFlags.rate = o.rate
	if cfg.NBD, err = o.exportFlags.open(ctx, log); err != nil {
		return err
	}
	if cfg.Keys != nil && len(cfg.NBD.Listeners) > 0 && cfg.NBD.TLS == nil {
		log.Warn("NBD clients are served without encryption, whoever may connect: --tls required with --tls-ca keeps strangers out there")
		cfg.NBD.Port = 0 // clients of the group are not to read there what is sealed elsewhere
	}
	unused := cfg.NBD
	defer func() { unused.Close() }()

	var images []*image.Image
	files := &plain{}
	if cfg.Group.IsValid() {
		l := library{cmd: cmd, log: log, labels: map[string]image.Descriptor{}, signed: map[string]bool{}}
		defer func() { l.close(images) }()
		cfg.Rehash, cfg.Reopen = l.rehash, l.reopen
		images, err = l.open(ctx, sources)
	} else {
		defer func() { err = errors.Join(err, files.Close()) }()
		files, err = o.openPlain(ctx, sources, log)
		cfg.NBD.Exports = files.exports
	}
	if err != nil {
		return err
	}
	var s *server.Server
	started := time.Now()
	describe := func() control.Status {
		st := serverStatus(s.Status(), interfaceNames(cfg.Interfaces), files, started)
		asking.describe(st.Server.Links)
		st.API, st.PID = control.API, os.Getpid()
		return st
	}
	cfg.Describe = func() []byte {
		b, _ := json.Marshal(describe()) // nothing in it has no JSON
		return b
	}
	if s, err = server.New(cfg); err != nil {
		return err
	}
	unused = server.NBD{} // the server closes it
	if err := s.Prepare(ctx, images); err != nil {
		s.Close()
		return err
	}
	svc, err := control.Listen("serve-"+strconv.Itoa(os.Getpid()), control.Handler{Status: describe})
	if err != nil {
		s.Close()
		return err
	}
	if cfg.Group.IsValid() || !o.started() {
		writeServing(cmd.OutOrStdout(), s.Status(), cfg.Interfaces, images, files, svc.Path())
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if status != nil {
		web := &http.Server{Handler: statusHandler(describe), ReadHeaderTimeout: 10 * time.Second}
		wg.Go(func() { _ = web.Serve(status) }) // until it is closed
		defer web.Close()
	}
	if o.pidFile != "" {
		if err := os.WriteFile(o.pidFile, fmt.Appendln(nil, os.Getpid()), 0o644); err != nil {
			s.Close()
			return errors.Join(fmt.Errorf("--pid-file: %w", err), svc.Close())
		}
		defer os.Remove(o.pidFile)
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { reloadAtHangup(running, s, hangups, log) })
	asking.run(running, &wg)
	if operators.l != nil {
		wg.Go(func() {
			if err := s.ServeOperators(running, operators.l, operators.tls); err != nil {
				log.Error("no commands are taken by TLS any more", "error", err)
			}
		})
	}
	notify(log, daemon.SdNotifyReady)
	serving := images
	images = nil // from here on they are the server's to close
	return errors.Join(s.Run(ctx, serving), svc.Close())
}

// reloadAtHangup has the server look at its keys and images again at each signal, until ctx ends.
func reloadAtHangup(ctx context.Context, s *server.Server, hangups <-chan os.Signal, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			s.Reload(func(err error) { // else it is about to be done anyway
				if err != nil {
					log.Error("not all images could be looked at again", "error", err)
				}
			})
		}
	}
}

// statusHandler answers GET /status and nothing else.
func statusHandler(describe func() control.Status) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(describe()) // it fails when the other side is gone, who needs no answer then
	})
	return mux
}

// notify tells the service manager, where there is one.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("notify the service manager", "error", err)
	}
}

// source is a file to be served and the name that the command line gives it.
type source struct {
	name string // empty: as the sidecar says, or after the file
	path string
}

// parseSources reads FILE and NAME=FILE. A file with = in its name is written with a directory, as in ./a=b.
func parseSources(args []string) ([]source, error) {
	var sources []source
	for _, arg := range args {
		name, path, found := strings.Cut(arg, "=")
		if !found || strings.Contains(name, "/") {
			name, path = "", arg
		}
		if found && name == "" && path != arg || path == "" {
			return nil, usagef("%q is neither FILE nor NAME=FILE", arg)
		}
		if name != "" {
			if t, err := target.Parse(name); err != nil || t.Name != name {
				return nil, usagef("%q: %q cannot be the name of an image: %w", arg, name, err)
			}
		}
		sources = append(sources, source{name, path})
	}
	return sources, nil
}

// library makes images of files, and again when they change.
type library struct {
	cmd *cobra.Command
	log *slog.Logger

	mu     sync.Mutex
	labels map[string]image.Descriptor // by path: what is or was offered last
	signed map[string]bool             // by path: one that was offered was signed
}

// open opens all sources, and hashes those that have no sidecar yet. It also returns those that it opened before an error.
func (l *library) open(ctx context.Context, sources []source) ([]*image.Image, error) {
	var images []*image.Image
	for _, s := range sources {
		m, err := l.hash(ctx, s.path, s.name, image.CreateOptions{}, image.OpenOrCreate)
		if err != nil {
			return images, err
		}
		images = append(images, m)
		d := m.Descriptor()
		for _, other := range images[:len(images)-1] {
			if o := other.Descriptor(); o.Name == d.Name && o.Revision == d.Revision {
				return images, fmt.Errorf("%s and %s are both %s revision %d; give one of them another name, as in other=%s",
					other.Path(), m.Path(), d.Name, d.Revision, m.Path())
			}
		}
	}
	return images, nil
}

// rehash makes an image of a file that was one and has changed.
func (l *library) rehash(ctx context.Context, path string) (*image.Image, error) {
	l.mu.Lock()
	last := l.labels[path]
	l.mu.Unlock()
	var o image.CreateOptions
	// Where no sidecar could be kept nobody else remembers the revision.
	if _, err := os.Stat(image.SidecarPath(path)); errors.Is(err, fs.ErrNotExist) {
		o.Revision = last.Revision + 1
	}
	return l.hash(ctx, path, last.Name, o, image.Create)
}

// reopen makes an image of what a file holds now. It hashes only a file that has changed.
func (l *library) reopen(ctx context.Context, path string) (*image.Image, error) {
	l.mu.Lock()
	last := l.labels[path]
	l.mu.Unlock()
	return l.hash(ctx, path, last.Name, image.CreateOptions{}, image.OpenOrCreate)
}

// hash makes an image with make, and shows how far it is. It is served under name, if that is not empty; a sidecar that has another one
// keeps it.
func (l *library) hash(ctx context.Context, path, name string, o image.CreateOptions,
	make func(context.Context, string, image.CreateOptions) (*image.Image, error),
) (*image.Image, error) {
	if _, err := os.Stat(image.SidecarPath(path)); errors.Is(err, fs.ErrNotExist) {
		o.Name = name
	}
	bar := newProgressBar(l.cmd.ErrOrStderr(), "hashing "+path)
	told := false
	o.Progress = func(done, total int64) {
		if !told && !bar.shown() {
			told = true
			l.log.Info("hashing "+path, "size", size.Format(total))
		}
		bar.update(done, total)
	}
	m, err := make(ctx, path, o)
	bar.end()
	if errors.Is(err, image.ErrSidecarNotWritten) {
		l.log.Warn("the image will be hashed again at the next start", "error", err)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	signed := m.Signature() != nil
	if name != "" {
		if err := m.Rename(name); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Signature() == nil && (signed || l.signed[path]) {
		d := m.Descriptor()
		l.log.Warn(fmt.Sprintf("%s@%d is not signed, as %s was: clients with --trust do not use it; 'dnbd image sign', and start again", d.Name, d.Revision, path))
	}
	l.signed[path] = l.signed[path] || signed
	l.labels[path] = m.Descriptor()
	return m, nil
}

// close closes images that were not served.
func (l *library) close(images []*image.Image) {
	for _, m := range images {
		if err := m.Close(); err != nil {
			l.log.Warn("close image", "error", err)
		}
	}
}
