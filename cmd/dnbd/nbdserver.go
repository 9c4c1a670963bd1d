package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/listen"
	"github.com/dnbd/dnbd/internal/nbdconf"
	"github.com/dnbd/dnbd/internal/nbdserve"
	"github.com/dnbd/dnbd/nbd"
)

// nbdServer is the name of the NBD project's server. Started under it, this program takes its command line and
// configuration file.
const nbdServer = "nbd-server"

// maxNBDClients is more clients than a machine has files to open for: nbd-server has no limit of its own.
const maxNBDClients = 1 << 20

// nbdServerCommand is nbd-server.
func nbdServerCommand() *cobra.Command {
	return &cobra.Command{
		Use:                nbdServer,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return sparingClient(cmd, func() error { return runNBDServer(cmd, args) })
		},
	}
}

// runNBDServer does what a command line asks for, in this process or in one in the background.
func runNBDServer(cmd *cobra.Command, args []string) error {
	c, err := nbdconf.ParseArgs(args)
	if err != nil {
		return usagef("%w", err)
	}
	out := cmd.OutOrStdout()
	switch {
	case c.Help:
		fmt.Fprint(out, nbdconf.Usage(nbdServer))
		return nil
	case c.Version:
		fmt.Fprintf(out, "%s of dnbd %s\n", nbdServer, versionText())
		return nil
	case c.Section != "":
		text, err := c.Export.Section(c.Section)
		fmt.Fprint(out, text)
		return err
	}
	config, err := c.Load()
	if err != nil {
		return err
	}
	s := &nbdService{command: c, config: config}
	switch stdin := config.Port == 0; {
	case inNBDBackground():
		return s.serveReporting(cmd.Context())
	case !stdin && !c.Foreground:
		return startNBDBackground(cmd, args)
	case stdin:
		s.log = newLog(cmd, slog.LevelWarn)
		return s.serveStdin(cmd.Context())
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	s.log = newLog(cmd, level)
	return s.serve(cmd.Context(), func() error { return nil })
}

// nbdService is a running nbd-server.
type nbdService struct {
	command *nbdconf.Command
	config  *nbdconf.Config
	log     *slog.Logger
	server  *nbd.Server
	exports []nbd.Export
	tls     atomic.Pointer[tls.Config] // of the next handshake
}

// prepare makes the server, and gives up the privileges that it needed for that.
func (s *nbdService) prepare() error {
	mode, config, err := nbdserve.TLS(s.config)
	if err != nil {
		return err
	}
	s.tls.Store(config)
	if err := becomeUser(s.config.User, s.config.Group); err != nil {
		return err
	}
	s.exports = nbdserve.Exports(s.config.Exports, s.log, os.Stderr)
	s.server, err = nbd.NewServer(nbd.ServerConfig{
		Exports: s.exports, NoList: !s.config.AllowList, Log: s.log, MaxConns: maxNBDClients,
		TLSMode: mode, TLS: &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.tls.Load(), nil }},
	})
	if s.config.MaxThreads != nbdconf.NewConfig().MaxThreads {
		s.log.Info("max_threads changes nothing: requests are worked on as they come")
	}
	return err
}

// serveStdin serves the client that is on standard input, as from inetd.
func (s *nbdService) serveStdin(ctx context.Context) error {
	conn, err := listen.Stdin()
	if err != nil {
		return fmt.Errorf("%w; with port 0 there is a client on it, as inetd has it: name another port to listen at", err)
	}
	if err := s.prepare(); err != nil {
		return errors.Join(err, conn.Close())
	}
	return s.server.ServeConn(ctx, conn)
}

// serve serves until ctx ends, and then until requests under way are answered. It calls ready when clients can connect.
func (s *nbdService) serve(ctx context.Context, ready func() error) error {
	takeWrites(s.log) // as long as it may
	// Before the process id is known, for it would end the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	listeners, err := nbdserve.Listen(ctx, s.config)
	if err != nil {
		return err
	}
	defer listen.Close(listeners) // again, once they are served
	if s.command.PIDFile != "" {
		if err := s.writePIDFile(); err != nil {
			return err
		}
		defer s.removePIDFile()
	}
	if err := s.prepare(); err != nil {
		return err
	}
	for _, l := range listeners {
		s.log.Info("serving NBD", "at", l.Addr())
	}
	if err := ready(); err != nil {
		return err
	}
	notify(s.log, daemon.SdNotifyReady)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() {
			if err := s.server.Serve(ctx, l); err != nil {
				cancel(err)
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-hup:
				s.reload()
			case <-ctx.Done():
				return
			}
		}
	})
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// writePIDFile writes the process id. That it cannot matters where somebody asked for it.
func (s *nbdService) writePIDFile() error {
	err := os.WriteFile(s.command.PIDFile, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644)
	switch {
	case err == nil:
		return nil
	case s.command.PIDFile == defaultPIDFile:
		s.log.Warn("the process id is not written", "err", err)
		return nil
	}
	return fmt.Errorf("-p: %w", err)
}

// removePIDFile removes the file if it can: who became another user may not be allowed to.
func (s *nbdService) removePIDFile() {
	if err := os.Remove(s.command.PIDFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Info("the file of the process id stays", "err", err)
	}
}

// reload reads the configuration again, and serves the exports that it has beside those that are served. As with nbd-server
// these, and all else, stay as they are; only the files of certificates are read again.
func (s *nbdService) reload() {
	later, err := s.command.Load()
	if err != nil {
		s.log.Error("the configuration stays as it was", "err", err)
		return
	}
	if _, config, err := nbdserve.TLS(s.config); err != nil {
		s.log.Error("the certificates stay as they were", "err", err)
	} else {
		s.tls.Store(config)
	}
	added := s.config.Added(later)
	exports := append(s.exports, nbdserve.Exports(added, s.log, os.Stderr)...)
	if err := s.server.SetExports(exports); err != nil {
		s.log.Error("the configuration stays as it was", "err", err)
		return
	}
	s.exports = exports
	s.config.Exports = append(s.config.Exports, added...)
	s.log.Info("the configuration was read again; what was served before is as it was", "exports", len(exports), "new", len(added))
}

// leaveDirectory goes to /, so that the process keeps no other directory busy.
func (s *nbdService) leaveDirectory() error {
	for _, path := range []*string{&s.command.ConfigFile, &s.command.PIDFile} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	return os.Chdir("/")
}
