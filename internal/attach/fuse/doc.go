// Package fuse attaches devices as block devices with what nearly every kernel has: a FUSE file system with a single file,
// a loop device on that file, and a symbolic link with the name that the user wants. It needs root.
//
// # Order
//
// The kernel reads the loop device through the file system that this process serves, so a process that waits for its own
// answer waits for ever, and cannot be killed. Hence three rules. This process keeps no descriptor on its own file system
// or on the loop device: it opens both to connect them, then closes them. Nothing is torn down that is in use, so that
// nobody is left waiting: what is mounted on the device is checked first, then go the loop device, the file system, the
// files. And when a step of this waits for reads that wait for a server, these reads are failed, then the connection is
// aborted.
//
// # Leftovers
//
// When this process is killed the kernel fails all reads and writes, and the mount, the loop device and the link remain. Each
// attachment has a directory with a lock that dies with its process; the next attachment of the same device, of whatever
// image, finds the lock free, and removes what is left.
//
// # Writing
//
// A device that can be written to and flushed is attached so: the loop device makes of flushes and forced writes an fsync of
// the file, and of discards and zeroes holes in it. When the last one who has the loop device open closes it the kernel
// has written all that it kept back; so at a detach there is nothing of that left.
//
// # Sizes
//
// A loop device has whole sectors of 512 bytes. The device of an image that has not is larger than the image, up to the
// next multiple of 4096 bytes; what is beyond the image's end reads as zeroes, and takes
// no others.
package fuse
