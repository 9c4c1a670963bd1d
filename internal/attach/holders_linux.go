package attach

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Holders names what uses any of paths, which are block devices, files, or symbolic links to them: file systems mounted
// from them in any mount namespace, swap, devices built on them, and processes that have them open. What this process
// may not look into is left out, and so are processes that were killed: one that waits for a read from the device ends when
// that fails, which who takes the device away sees to.
func Holders(paths ...string) ([]string, error) {
	u := use{paths: make(map[string]bool), devices: make(map[string]bool)}
	for _, p := range paths {
		u.add(p)
	}
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	found := u.mounts(pids)
	found = append(found, u.swaps()...)
	found = append(found, u.stacked()...)
	found = append(found, u.processes(pids)...)
	return found, nil
}

// Process names the process pid as holders are named.
func Process(pid int) string {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("pid %d", pid)
	}
	return fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), pid)
}

// use is what Holders looks for.
type use struct {
	paths   map[string]bool // the paths, and what they resolve to
	devices map[string]bool // the numbers of those that are block devices, as MAJOR:MINOR
}

func (u *use) add(path string) {
	u.paths[path] = true
	// A path on a dead FUSE mount cannot be resolved; it is still worth looking for.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		u.paths[real] = true
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		u.devices[fmt.Sprintf("%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))] = true
	}
}

// mounts looks through the mount namespaces of pids, each once.
func (u *use) mounts(pids []string) (found []string) {
	seen := make(map[string]bool)
	own, _ := os.Readlink("/proc/self/ns/mnt")
	for _, pid := range append([]string{"/proc/self"}, pids...) {
		ns, err := os.Readlink(pid + "/ns/mnt")
		if err != nil || seen[ns] {
			continue // gone, or not ours to see
		}
		seen[ns] = true
		f, err := os.Open(pid + "/mountinfo")
		if err != nil {
			continue
		}
		for _, point := range u.mountPoints(f) {
			if ns != own {
				n, _ := strconv.Atoi(filepath.Base(pid))
				point += " in the mount namespace of " + Process(n)
			}
			found = append(found, "mounted at "+point)
		}
		f.Close()
	}
	return found
}

// mountPoints returns where mountinfo, in the format of proc_pid_mountinfo(5), says that one of the paths is mounted.
func (u *use) mountPoints(mountinfo io.Reader) (points []string) {
	for lines := bufio.NewScanner(mountinfo); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		dash := slices.Index(fields, "-")
		if dash < 6 || len(fields) < dash+3 {
			continue
		}
		if u.devices[fields[2]] || u.paths[unescape(fields[dash+2])] {
			points = append(points, unescape(fields[4]))
		}
	}
	return points
}

// killed says whether the process in the directory pid was sent SIGKILL and has not ended yet.
func killed(pid string) bool {
	status, _ := os.ReadFile(pid + "/status")
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "SigPnd" && name != "ShdPnd" { // pending for the thread, and for the process
			continue
		}
		if set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64); err == nil && set&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

// unescape undoes the octal escapes of mountinfo and swaps.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func (u *use) swaps() (found []string) {
	raw, _ := os.ReadFile("/proc/swaps") // missing where the kernel has no swap
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 0 && u.paths[unescape(fields[0])] {
			found = append(found, "used as swap")
		}
	}
	return found
}

// stacked finds the devices that are built on the paths: device mapper and md by their holder links, loop devices by the
// name of their file.
func (u *use) stacked() (found []string) {
	for device := range u.devices {
		links, _ := filepath.Glob("/sys/dev/block/" + device + "/holders/*")
		for _, l := range links {
			found = append(found, "part of "+filepath.Base(l))
		}
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		loop := strings.Split(f, "/")[3]
		backing, err := os.ReadFile(f)
		if err == nil && u.paths[strings.TrimSuffix(string(backing), "\n")] && !u.paths["/dev/"+loop] {
			found = append(found, "part of "+loop)
		}
	}
	return found
}

// processes finds the processes that have one of the paths open. It reads where descriptors lead to and does not follow
// them: that would hang on a file system whose server does.
func (u *use) processes(pids []string) (found []string) {
	for _, pid := range pids {
		fds, err := os.ReadDir(pid + "/fd")
		if err != nil || killed(pid) {
			continue // gone, as good as gone, or not ours to see
		}
		for _, fd := range fds {
			target, err := os.Readlink(pid + "/fd/" + fd.Name())
			if errors.Is(err, os.ErrNotExist) {
				continue // closed meanwhile
			}
			if err == nil && u.paths[target] {
				n, _ := strconv.Atoi(filepath.Base(pid))
				found = append(found, Process(n))
				break
			}
		}
	}
	return found
}
