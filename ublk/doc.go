// Package ublk makes block devices of Linux, /dev/ublkbN, whose bytes come from this process, with the kernel's ublk driver. It
// is plain Go, without cgo, and needs root.
//
// A disk is made of a [Device]: anything that can be read at an offset. What else its users can do is what the device can do: one
// that is also a [Writer] can be written to, a [Flusher] flushed, a [Trimmer] trimmed, a [Zeroer] zeroed. [New] makes a [Disk] and
// serves it until its Close.
//
// Each request runs on a goroutine of its own; a slow one holds up no other, up to [Config].Depth of them in each queue.
//
// # Recovery
//
// A disk that was made with Config.Recover outlives its process. When that has died, whatever the reason, requests wait, those
// too that were under way; [Resume] in another process carries them out, and nobody who uses the disk has noticed more than a
// pause. [Delete] makes them fail instead. So that a program finds its disks again, the kernel keeps a number of its choice with
// each, Config.Tag, which [List] returns.
//
// # Kernel
//
// Linux 6.5 or later with ublk_drv; the module is loaded when it is missing. [Available] says what is missing otherwise. The ABI
// is include/uapi/linux/ublk_cmd.h of Linux and its Documentation/block/ublk.rst.
package ublk
