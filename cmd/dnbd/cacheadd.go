package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/size"
)

// cacheAddCommand is `dnbd cache add`.
func cacheAddCommand() *cobra.Command {
	var bytes size.Bytes
	cmd := &cobra.Command{
		Use:   "add [flags] DEVICE FILE",
		Short: "Give a device that is attached a cache file",
		Long: "Give a device that is attached a cache file, in place of the cache that it has. What is in the file from an earlier\n" +
			"time is used. Without --cache-size the file was made beforehand, and its size is the capacity.",
		Example: "  dnbd cache add --cache-size 8G /dev/dnbd0 /var/cache/dnbd",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("name the device and the cache file: DEVICE FILE")
			}
			return nil
		},
		ValidArgsFunction: completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("cache-size") && bytes <= 0 {
				return usagef("--cache-size %s: a cache has to hold something", bytes.String())
			}
			return addCache(cmd, args[0], args[1], int64(bytes))
		},
	}
	cmd.Flags().Var(&bytes, "cache-size", "make the file if it is missing, this large")
	cmd.Flags().Lookup("cache-size").DefValue = "" // 0 stands for none
	return cmd
}

// addCache gives a device that is attached a cache file.
func addCache(cmd *cobra.Command, device, file string, bytes int64) error {
	p, err := findAttachment(cmd.Context(), device)
	if err != nil {
		return err
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	return p.AddCache(cmd.Context(), control.AddCache{File: path, Size: bytes})
}
