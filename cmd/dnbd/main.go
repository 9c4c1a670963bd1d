// Command dnbd serves images to a group of machines and attaches them as block devices: one block on the wire for all who
// want it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes: done, failed, wrong usage.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

// run runs the command line argv and returns the exit code. Started under the name of one of DNBD's programs, or of
// nbd-server, it is that program.
func run(argv []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks to stop; the second ends a process that does not.
	context.AfterFunc(ctx, stop)

	name := filepath.Base(argv[0])
	var root *cobra.Command
	switch name {
	case oldServer:
		root = oldServerCommand()
	case oldClient:
		root = oldClientCommand()
	case nbdServer:
		root = nbdServerCommand()
	case nbdClient:
		root = nbdClientCommand()
	default:
		name, root = "dnbd", rootCommand()
	}
	strict(root)
	root.SetArgs(argv[1:])
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var usage *usageError
	var silent silentExit
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &silent):
		return int(silent)
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return exitUsage
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = errors.New("interrupted")
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return exitFailed
}

// rootCommand is `dnbd` with all its commands.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "dnbd",
		Short: "Serve a disk image once, read it on many machines",
		Long: "dnbd serves disk images to a group of machines and attaches them as block devices. A block that several machines\n" +
			"want crosses the network once; every machine checks it against the image's hash tree before it is used.",
		Example: `  dnbd serve debian-12.img                   on the server
  dnbd attach debian-12                      on each machine: makes a block device
  dnbd copy debian-12 /dev/sda               or copies the whole image
  dnbd list                                  what is there?`,
		Version: versionText(),
	}
	root.SetVersionTemplate("dnbd {{.Version}}\n")
	addVerbose(root)
	cache := cacheCommand()
	cache.AddCommand(cacheAddCommand())
	root.AddCommand(serveCommand(), attachCommand(), detachCommand(), setCommand(), copyCommand(), diffCommand(), infoCommand(), mapCommand(), listCommand(), statusCommand(),
		imageCommand(), cache, cowCommand(), keyCommand(), serverCommand(), bootCommand(), versionCommand(), manCommand(root))
	return root
}

// addVerbose gives a command, and those below it, the flag that turns debug logs on, and the log that all parts use which
// are not given one.
func addVerbose(root *cobra.Command) {
	root.PersistentFlags().BoolP("verbose", "v", false, "log what happens in detail, on stderr")
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		slog.SetDefault(newLog(cmd, slog.LevelWarn))
	}
}
