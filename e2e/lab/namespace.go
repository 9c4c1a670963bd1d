//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// netnsDir is where ip-netns(8) keeps namespaces by name.
	netnsDir = "/run/netns/"
	// prefixRoot begins the name of every namespace of every lab: dnbd-PID-NUMBER-HOST.
	prefixRoot = "dnbd-"
)

// Missing says why no lab can be built here ("needs root", …); it is empty when one can.
func Missing() string {
	if os.Geteuid() != 0 {
		return "needs root"
	}
	for _, program := range []string{"ip", "tc", "nsenter", "nft", "ethtool"} {
		if _, err := exec.LookPath(program); err != nil {
			return "needs the program " + program + " (Debian: iproute2, util-linux, nftables, ethtool)"
		}
	}
	return ""
}

// claimPrefix takes a prefix that no other lab has, by creating the switch's namespace under it.
func (l *Lab) claimPrefix() error {
	for n := 1; ; n++ {
		l.prefix = fmt.Sprintf("%s%d-%d-", prefixRoot, os.Getpid(), n)
		_, err := os.Lstat(l.path(Switch))
		if err == nil {
			continue
		}
		if err := run("", "ip", "netns", "add", l.prefix+Switch); err != nil {
			if _, exists := os.Lstat(l.path(Switch)); exists == nil && n < 1000 {
				continue // another goroutine was faster
			}
			return err
		}
		return nil
	}
}

func (l *Lab) path(name string) string { return netnsDir + l.prefix + name }

// Namespace returns the file that stands for a host's namespace, for programs that take one.
func (l *Lab) Namespace(host string) string { return l.path(host) }

// Command returns a command that runs as if on host, in whose namespace only the network differs: files and mounts are this
// process's. The process that it starts is the command itself, so signals reach it. Close kills what is left of it.
func (l *Lab) Command(ctx context.Context, host, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + l.path(host), "--", name}, args...)...)
}

// Do calls f as if on host and returns its error. Sockets that f opens stay on that host; goroutines that it starts do not.
func (l *Lab) Do(host string, f func() error) error { return within(l.path(host), f) }

// within calls f in the network namespace of a file, on a thread that ends with it.
func within(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer close(done)      // also when f ends its goroutine
		runtime.LockOSThread() // never unlocked: the runtime ends a thread whose locked goroutine ends
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", path, err)
			return
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Close takes the network down and kills what still runs in it. A second Close does nothing.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	return remove(l.prefix)
}

// remove kills the processes in the namespaces whose names begin with prefix, and deletes those.
func remove(prefix string) error {
	paths, err := filepath.Glob(netnsDir + prefix + "*")
	if err != nil {
		return fmt.Errorf("remove lab: %w", err)
	}
	if len(paths) == 0 {
		return nil
	}
	inside := map[uint64]bool{}
	var batch strings.Builder
	for _, p := range paths {
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil {
			inside[st.Ino] = true
		}
		fmt.Fprintln(&batch, "netns del", filepath.Base(p))
	}
	killInside(inside)
	if err := run(batch.String(), "ip", "-force", "-batch", "-"); err != nil {
		return fmt.Errorf("remove lab: %w", err)
	}
	return nil
}

// killInside kills the processes whose network namespace is one of those, except this one.
func killInside(namespaces map[uint64]bool) {
	processes, _ := filepath.Glob("/proc/[0-9]*") // the pattern is a good one
	for _, p := range processes {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(p+"/ns/net", &st) == nil && namespaces[st.Ino] {
			unix.Kill(pid, unix.SIGKILL) // it may have ended meanwhile
		}
	}
}

// removeStale removes the labs of processes that ended without Close.
func removeStale() error {
	paths, err := filepath.Glob(netnsDir + prefixRoot + "*-" + Switch)
	if err != nil {
		return err
	}
	for _, p := range paths {
		prefix := strings.TrimSuffix(filepath.Base(p), Switch)
		id, _, _ := strings.Cut(strings.TrimPrefix(prefix, prefixRoot), "-")
		pid, err := strconv.Atoi(id)
		if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			continue
		}
		// Another process may be removing the same one.
		if err := remove(prefix); err != nil {
			if _, gone := os.Lstat(p); !errors.Is(gone, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// run runs a program with input and returns an error that has what it said.
func run(input, name string, args ...string) error {
	_, err := output(input, name, args...)
	return err
}

// output is run that returns what the program printed.
func output(input, name string, args ...string) ([]byte, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}
