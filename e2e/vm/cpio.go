//go:build linux

package vm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
)

// archive writes an initramfs in the "newc" format of cpio, as the kernel's Documentation/driver-api/early-userspace/
// buffer-format.rst describes it. Parents are added before what is in them. The first error sticks, and close returns it.
type archive struct {
	w       *bufio.Writer
	written int64
	inode   int
	has     map[string]bool // what was added, so that nothing is added twice
	err     error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), has: map[string]bool{".": true}}
}

// The file types of newc's mode field, as stat(2) has them.
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeLink = 0o120000
)

// dir adds a directory and those that it is in. Paths are those in the guest.
func (a *archive) dir(name string) {
	name = clean(name)
	if a.has[name] {
		return
	}
	a.dir(path.Dir(name))
	a.entry(name, modeDir|0o755, 0)
}

// link adds a symbolic link.
func (a *archive) link(name, target string) {
	if a.parent(name) {
		a.entry(clean(name), modeLink|0o777, int64(len(target)))
		a.data([]byte(target))
	}
}

// bytes adds a file that holds data.
func (a *archive) bytes(name string, data []byte) {
	if a.parent(name) {
		a.entry(clean(name), modeFile|0o644, int64(len(data)))
		a.data(data)
	}
}

// file adds a copy of a file of the host.
func (a *archive) file(name, source string) {
	if !a.parent(name) {
		return
	}
	f, err := os.Open(source)
	if err != nil {
		a.fail(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.fail(err)
		return
	}
	a.entry(clean(name), modeFile|int64(info.Mode().Perm()), info.Size())
	n, err := io.CopyN(a.w, f, info.Size())
	a.written += n
	a.fail(err)
	a.pad()
}

// parent makes the directory for name; it says false if name is there already.
func (a *archive) parent(name string) bool {
	a.dir(path.Dir(clean(name)))
	return !a.has[clean(name)]
}

// entry writes a header: magic, inode, mode, uid, gid, links, mtime, size, two numbers of a device, two of the device that a special
// file stands for, the length of the name with its NUL, no checksum.
func (a *archive) entry(name string, mode, size int64) {
	a.inode++
	a.has[name] = true
	n, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.written += int64(n)
	a.fail(err)
	a.pad()
}

func (a *archive) data(b []byte) {
	n, err := a.w.Write(b)
	a.written += int64(n)
	a.fail(err)
	a.pad()
}

// pad fills up to a multiple of four, where headers and contents begin.
func (a *archive) pad() {
	n, err := a.w.Write(make([]byte, -a.written&3))
	a.written += int64(n)
	a.fail(err)
}

func (a *archive) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// close ends the archive.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0)
	a.fail(a.w.Flush())
	return a.err
}

// clean makes a path relative to the guest's root.
func clean(name string) string { return path.Clean("." + path.Clean("/"+name)) }
