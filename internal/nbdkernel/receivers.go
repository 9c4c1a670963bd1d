//go:build linux

package nbdkernel

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// kthreadd is the process that all threads of the kernel's are children of.
const kthreadd = "2"

// Receivers returns how many connections of device index the kernel reads from: those that are alive, and dead ones that it is not
// through with. It shows where the kernel's threads are seen, which is not so in most containers, and where each device has a
// workqueue of its own; elsewhere the error wraps errors.ErrUnsupported.
func (c *Control) Receivers(index int) (int, error) { return receivers(c.proc.FS(), index) }

// receivers is Receivers, with proc for /proc. A worker that is at work has the name of its queue behind its own and a plus sign; the
// queue's rescuer, which is always there, tells whether workers can be seen at all.
func receivers(proc fs.FS, index int) (n int, err error) {
	pids, err := fs.Glob(proc, "[0-9]*")
	if err != nil {
		return 0, err
	}
	queue := fmt.Sprintf("nbd%d-recv", index)
	seen := false
	for _, pid := range pids {
		stat, err := fs.ReadFile(proc, path.Join(pid, "stat"))
		if err != nil {
			continue // ended, or somebody else's business
		}
		thread, ok := kernelThread(string(stat))
		if !ok {
			continue
		}
		working := strings.HasSuffix(thread, "+"+queue)
		if working {
			n++
		}
		seen = seen || working || rescues(thread, queue)
	}
	if !seen {
		return 0, fmt.Errorf("see what the kernel reads of %s: none of its threads is shown: %w", name(index), errors.ErrUnsupported)
	}
	return n, nil
}

// rescues says whether a thread of this name is the rescuer of a queue. Until Linux 6.8 it is called as the queue is; since then it has
// a prefix, and 15 characters at most.
func rescues(name, queue string) bool {
	cut, prefixed := strings.CutPrefix(name, "kworker/R-")
	return name == queue || prefixed && cut != "" && strings.HasPrefix(queue, cut)
}

// kernelThread returns the name in a file /proc/PID/stat, proc(5), and whether it is that of one of the kernel's threads.
func kernelThread(stat string) (name string, ok bool) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", false
	}
	fields := strings.Fields(stat[end+1:])
	return stat[open+1 : end], len(fields) > 1 && fields[1] == kthreadd
}
