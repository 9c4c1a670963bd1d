package main

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/attach"
	"github.com/dnbd/dnbd/internal/target"
)

// The names of DNBD's programs. Started under them, this one takes the flags that they took.
const (
	oldServer = "dnbd-server"
	oldClient = "dnbd-client"
)

// oldServerCommand is dnbd-server as DNBD had it.
func oldServerCommand() *cobra.Command {
	var o serveOptions
	var file string
	cmd := &cobra.Command{
		Use:     oldServer + " -m ADDR -d FILE|BLOCKDEV -i N [-t N]",
		Short:   "Serve an image to a multicast group",
		Long:    "Serve a file or block device to a multicast group, in the foreground. Its servers have different ids.",
		Example: "  dnbd-server -m 239.0.0.1 -d debian-12.img -i 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needFlags(cmd, args, "mcast", "device", "id"); err != nil {
				return err
			}
			switch {
			case o.id == 0:
				return usagef("--id 0: ids count from 1")
			case o.threads < 0:
				return usagef("--threads %d: it is a number from 1", o.threads)
			}
			if _, err := oldGroup("mcast", o.group); err != nil {
				return err
			}
			o.files = []string{filePath(file)}
			return o.run(cmd)
		},
	}
	addVerbose(cmd)
	cmd.Flags().StringVarP(&o.group, "mcast", "m", "", "serve the multicast group `ADDR`")
	cmd.Flags().StringVarP(&file, "device", "d", "", "serve this `FILE` or block device")
	cmd.Flags().Uint16VarP(&o.id, "id", "i", 0, "be server `N` of the group, from 1 to 65535")
	cmd.Flags().IntVarP(&o.threads, "threads", "t", 0, "read with `N` threads (default: as many as fit the machine)")
	return oldUsage(cmd)
}

// oldClientCommand is dnbd-client as DNBD had it.
func oldClientCommand() *cobra.Command {
	var device, group, cache string
	var trusted trustFlags
	var unbind bool
	cmd := &cobra.Command{
		Use:   oldClient + " -d DEVICE {-b ADDR [-c FILE] | -c FILE | -u}",
		Short: "Import the image that a multicast group offers",
		Long: "With -b, import the image that a multicast group offers as a block device, and print the ids of the servers found.\n" +
			"With -c alone, add a cache to a device that is imported. With -u, end the import. A cache is a file made\n" +
			"beforehand, whose size is the capacity.",
		Example: "  dnbd-client -d /dev/dnbd0 -b 239.0.0.1\n  dnbd-client -d /dev/dnbd0 -c /var/cache/dnbd\n  dnbd-client -d /dev/dnbd0 -u",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needFlags(cmd, args, "device"); err != nil {
				return err
			}
			bind, add := cmd.Flags().Changed("bind"), cmd.Flags().Changed("cache")
			switch {
			case unbind && bind:
				return usagef("--unbind and --bind contradict each other")
			case unbind && add:
				return usagef("--unbind and --cache contradict each other")
			case unbind:
				return detach(cmd.Context(), device)
			case bind:
				return oldBind(cmd, trusted, device, group, cache)
			case add:
				return addCache(cmd, device, cache, 0)
			}
			return usagef("one of --bind, --cache and --unbind is missing")
		},
	}
	addVerbose(cmd)
	cmd.Flags().StringVarP(&device, "device", "d", "", "the `DEVICE`, such as /dev/dnbd0")
	cmd.Flags().StringVarP(&group, "bind", "b", "", "import the image of the multicast group `ADDR`")
	cmd.Flags().StringVarP(&cache, "cache", "c", "", "keep blocks in `FILE`")
	trusted.add(cmd)
	cmd.Flags().BoolVarP(&unbind, "unbind", "u", false, "end the import")
	return oldUsage(cmd)
}

// oldBind imports the one image of a group.
func oldBind(cmd *cobra.Command, trusted trustFlags, device, group, cache string) error {
	g, err := oldGroup("bind", group)
	if err != nil {
		return err
	}
	o := attachOptions{
		imageFlags: imageFlags{trustFlags: trusted}, image: target.GroupURI(g), device: device, cache: cache, driver: attach.Auto, verbose: verbose(cmd),
	}
	if err := o.check(cmd); err != nil {
		return err
	}
	r, err := o.background(cmd)
	if err != nil {
		return err
	}
	for _, id := range r.Servers {
		fmt.Fprintf(cmd.OutOrStdout(), "server %d\n", id)
	}
	return nil
}

// oldGroup reads the group that a flag names.
func oldGroup(flag, group string) (netip.AddrPort, error) {
	g, err := target.ParseGroup(group)
	if err != nil {
		return netip.AddrPort{}, usagef("--%s: %w", flag, err)
	}
	return g, nil
}

// needFlags wants these flags and no arguments.
func needFlags(cmd *cobra.Command, args []string, names ...string) error {
	if len(args) > 0 {
		return usagef("%q is not a flag", args[0])
	}
	for _, name := range names {
		if !cmd.Flags().Changed(name) {
			return usagef("--%s is missing", name)
		}
	}
	return nil
}

// oldUsage has a command print its usage when it is started with nothing at all.
func oldUsage(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && cmd.Flags().NFlag() == 0 {
			cmd.SetOut(cmd.ErrOrStderr())
			if err := cmd.Help(); err != nil {
				return err
			}
			return usagef("nothing to do")
		}
		return run(cmd, args)
	}
	return cmd
}

// filePath writes a path so that no part of it is taken for a name.
func filePath(path string) string {
	if len(path) > 0 && os.IsPathSeparator(path[0]) {
		return path
	}
	return "./" + path
}
