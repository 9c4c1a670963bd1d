//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// everyNBD are the servers that are compared, dnbd first.
var everyNBD = []nbdProgram{dnbdServer, nbdkit, qemuNBD, nbdServer}

// nbdStream is how fast a whole file is read.
var nbdStream = scenario{
	name:  "stream",
	title: "a file from beginning to end",
	about: "`nbdcopy URI null:` of 1 GiB of random bytes that are in the page cache, over one connection or four. " +
		"Client and server share the processors, and the client takes much of them; *CPU* is what the server's " +
		"processes took, user and system time, for each GiB, so it is the better measure. Over TCP within a machine who sends " +
		"does much of the receiver's work, or less of it while the receiver is at work itself, so that the client's time belongs to it. Each load has a server " +
		"that was just started, here and below, and a file that was just read. Ratios are of the same round; what has to be " +
		"reached has to be reached against each of the others, and the one that dnbd does worst against is named. " +
		"nbd-server has a configuration file in which `flush` is on and all else is as by default.",
	run:     runNBDStream,
	timeout: 6 * time.Minute,
}

func runNBDStream(ctx context.Context, r *rig, s *section) error {
	path, size, err := r.disk()
	if err != nil {
		return err
	}
	var races []race
	for _, connections := range []int{1, 4} {
		for _, network := range []string{"unix", "tcp"} {
			races = append(races, race{
				label:    fmt.Sprintf("%s, %s", network, count(connections, "connection")),
				export:   export{path: path, network: network},
				programs: everyNBD,
				load:     nbdcopy(connections, size),
				unit:     "MB/s",
				result:   atLeast(1.0, 1.3),
				work:     perGiBMoved,
			})
		}
	}
	return r.runRaces(ctx, s, r.either(7, 2), races...)
}

// disk returns the file that is read, and its size.
func (r *rig) disk() (path string, size int64, err error) {
	size = int64(r.either(1024, 256) * mib)
	path = filepath.Join(r.dir, "disk.img")
	if _, err := os.Stat(path); err == nil {
		return path, size, nil
	}
	return path, size, fill(path, size)
}

// nbdcopy is a load that reads a file of a size. Its result is MB/s.
func nbdcopy(connections int, size int64) func(context.Context, *rig, *nbdProcess) (done, error) {
	return func(ctx context.Context, r *rig, s *nbdProcess) (done, error) {
		command := []string{"nbdcopy", fmt.Sprintf("--connections=%d", connections), s.uri(r.certificate("")), "null:"}
		r.recordNBD("client", s.export, command)
		p, err := start("nbdcopy", exec.CommandContext(ctx, command[0], command[1:]...))
		if err != nil {
			return done{}, err
		}
		defer p.stdin.Close()
		if err := p.wait(); err != nil {
			return done{}, err
		}
		return done{result: float64(size) / 1e6 / p.seconds(), amount: float64(size) / gib, client: p.cpu()}, nil
	}
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}
