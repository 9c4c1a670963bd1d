package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/nbd"
)

// nbdClient is the name of the NBD project's client. Started under it, this program takes its command line.
const nbdClient = "nbd-client"

// The exit codes of nbd-client -c.
const (
	exitNotConnected = 1
	exitCheckFailed  = 2
)

// silentExit ends the program with a code and no words.
type silentExit int

// Error implements error.
func (e silentExit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// nbdClientCommand is nbd-client.
func nbdClientCommand() *cobra.Command {
	return &cobra.Command{
		Use:                nbdClient,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := parseNBDClient(args)
			if err != nil {
				return usagef("%w", err)
			}
			return c.run(cmd)
		},
	}
}

// run does what the command line asks for.
func (c *nbdClientArgs) run(cmd *cobra.Command) error {
	out := cmd.OutOrStdout()
	switch {
	case c.help:
		fmt.Fprint(out, nbdClientUsage())
		return nil
	case c.version:
		fmt.Fprintf(out, "%s of dnbd %s\n", nbdClient, versionText())
		return nil
	case c.disconnect != "":
		return detach(cmd.Context(), c.disconnect)
	case c.check != "":
		return c.report(cmd)
	case c.list:
		return c.listExports(cmd)
	}
	o, err := c.options(cmd)
	if err != nil {
		return err
	}
	if c.foreground {
		return o.serve(cmd.Context(), newLog(cmd, slog.LevelInfo), func(r ready) error { return c.connected(cmd, r) })
	}
	r, err := o.background(cmd)
	if err != nil {
		return err
	}
	return c.connected(cmd, r)
}

// connected says that the device can be used.
func (c *nbdClientArgs) connected(cmd *cobra.Command, r ready) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "Connected %s\n", r.Device)
	return err
}

// options are what `dnbd attach` would be told.
func (c *nbdClientArgs) options(cmd *cobra.Command) (*attachOptions, error) {
	o := &attachOptions{image: c.uri(), device: c.device, driver: attach.Auto, verbose: false, timeout: c.timeout, swap: c.swap, nbd: c.nbd}
	o.tls = c.files
	if strings.HasPrefix(c.device, "/dev/nbd") {
		o.driver = nbdDriver // the kernel's own name: no other driver can have it
	}
	if !c.persist {
		o.ioTimeout = unpersistent
	}
	if o.nbd.connections == 0 {
		o.nbd.connections = 1
	}
	return o, o.check(cmd)
}

// unpersistent is how long requests wait for a server that is gone without -persist: as good as not at all.
const unpersistent = time.Second

// uri is the server and the export as a URI.
func (c *nbdClientArgs) uri() string {
	u := nbd.URI{Network: "tcp", Host: c.host, Port: c.port, Export: c.name, TLS: c.tls}
	if c.unix {
		u = nbd.URI{Network: "unix", Socket: absolute(c.host), Export: c.name, TLS: c.tls}
	}
	return u.String()
}

// report says which process serves a device, as -c has it.
func (c *nbdClientArgs) report(cmd *cobra.Command) error {
	if p, err := findAttachment(cmd.Context(), c.check); err == nil {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), p.Status.PID)
		return err
	}
	pid, err := kernelPID(c.check)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && pid == 0:
		return silentExit(exitNotConnected)
	case err != nil:
		cmd.PrintErrf("%s: %v\n", nbdClient, err)
		return silentExit(exitCheckFailed)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), pid)
	return err
}

// listExports prints the server's exports, as -l has it.
func (c *nbdClientArgs) listExports(cmd *cobra.Command) error {
	secure, err := c.files.config()
	if err != nil {
		return err
	}
	exports, err := nbd.List(cmd.Context(), c.uri(), nbd.DialConfig{TLS: secure})
	if err != nil {
		return err
	}
	for _, x := range exports {
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), x.Name); err != nil {
			return err
		}
	}
	return nil
}

// checkDevice says what is wrong with a device to connect to.
func checkDevice(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && st.Mode()&os.ModeDevice != 0 {
		return nil // the kernel's module may not be there yet, and a path of another name is made
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is no device", path)
}
