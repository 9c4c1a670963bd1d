//go:build linux && !(386 || arm || mips || mipsle)

package fuse

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/attach/sectors"
	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	// diskName is the name of the one file.
	diskName = "disk"
	// diskNode is its inode number; the root's is 1.
	diskNode = 2
	// validity is how long the kernel may rely on names and attributes, which never change.
	validity = 24 * time.Hour
)

// disk is a file system with one file, the bytes of a device.
type disk struct {
	fuse.RawFileSystem             // answers ENOSYS to everything that is not below
	dev                block.Lower // of whole sectors: a loop device ignores what is beyond the last one
	writable           bool
	made               time.Time

	// ctx ends when all requests are to fail; cancel ends it.
	ctx    context.Context
	cancel context.CancelFunc
}

func newDisk(dev block.Device) *disk {
	d := &disk{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		dev:           block.Lower{Device: sectors.Whole(dev)},
		writable:      writable(dev),
		made:          time.Now(),
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// String implements fuse.RawFileSystem.
func (d *disk) String() string { return "dnbd" }

// attributes fills in what stat says about a node.
func (d *disk) attributes(node uint64, a *fuse.Attr) fuse.Status {
	switch node {
	case fuse.FUSE_ROOT_ID:
		*a = fuse.Attr{Mode: syscall.S_IFDIR | 0o500, Nlink: 2}
	case diskNode:
		*a = fuse.Attr{Mode: syscall.S_IFREG | 0o400, Nlink: 1, Size: uint64(d.dev.Size()), Blocks: uint64(d.dev.Size() / 512)}
		if d.writable {
			a.Mode |= 0o200
		}
	default:
		return fuse.ENOENT
	}
	a.Ino = node
	a.Blksize = 4096
	a.SetTimes(nil, &d.made, &d.made)
	return fuse.OK
}

// Lookup implements fuse.RawFileSystem.
func (d *disk) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != fuse.FUSE_ROOT_ID || name != diskName {
		return fuse.ENOENT
	}
	out.NodeId = diskNode
	out.SetEntryTimeout(validity)
	out.SetAttrTimeout(validity)
	return d.attributes(diskNode, &out.Attr)
}

// GetAttr implements fuse.RawFileSystem.
func (d *disk) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(validity)
	return d.attributes(in.NodeId, &out.Attr)
}

// Open implements fuse.RawFileSystem. The kernel may keep pages of the file for ever, since it changes by nothing but what the
// kernel writes: what is mounted from the file itself uses them, the loop device does not. A process that asks for direct reads waits for the
// bytes in the kernel; only with direct opens can it be interrupted then.
func (d *disk) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY && !d.writable {
		return fuse.EROFS
	}
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if in.Flags&syscall.O_DIRECT != 0 {
		out.OpenFlags = fuse.FOPEN_DIRECT_IO
	}
	return fuse.OK
}

// OpenDir implements fuse.RawFileSystem.
func (d *disk) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	return fuse.OK
}

// ReadDir implements fuse.RawFileSystem.
func (d *disk) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if in.Offset == 0 {
		out.AddDirEntry(fuse.DirEntry{Name: diskName, Ino: diskNode, Mode: syscall.S_IFREG})
	}
	return fuse.OK
}

// StatFs implements fuse.RawFileSystem.
func (d *disk) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, sectors.Sector, 255
	out.Blocks = uint64(d.dev.Size() / sectors.Sector)
	return fuse.OK
}

// Read implements fuse.RawFileSystem. Each runs on a goroutine of its own. interrupted is closed when the process that
// waits for the read got a signal.
func (d *disk) Read(interrupted <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	off, n := d.within(in.Offset, min(uint64(in.Size), uint64(len(buf))))
	buf = buf[:n]
	ctx, over := d.request(interrupted)
	defer over()
	if err := d.dev.ReadAt(ctx, buf, off); err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(buf), fuse.OK
}

// status is the one place where an error becomes a number for the kernel.
func status(err error) fuse.Status {
	if errors.Is(err, context.Canceled) {
		return fuse.EINTR
	}
	return fuse.Status(block.Errno(err))
}
