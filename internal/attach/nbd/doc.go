// Package nbd attaches devices as block devices of Linux's NBD driver. It needs root.
//
// A device of this process (Attach) is served to the kernel over socket pairs. An export of an NBD server (AttachRemote) is
// negotiated here, and the kernel is handed the connection: no byte passes through this process then.
//
// # Survival
//
// The kernel's device outlives the process: what is asked of it waits. The next process takes it over, with new connections,
// and it goes on. It finds the device by the claim that the dead one left, and makes sure by the backend identifier, in
// which stands what is attached, that it is the same. The same way a connection that breaks is replaced while the process
// lives. Requests that were under way when one broke are sent again by the kernel, each when its own time limit is over:
// that is the longest that a device stands still.
//
// # Requests that come twice
//
// A request that the kernel sends again may still be under way here from the first time. A write that was repeated, answered
// and overwritten must not be done late by the old connection. So writes to the same bytes wait for one another, and one is
// done only if its connection is still there when its turn has come: the kernel shuts a connection down before it sends
// anything again elsewhere. A server at the other end of a network does not look: it carries out what it has of a connection
// that was shut down, and what still comes, when it gets round to it. Nor does anything tell here when it is done, since the
// kernel also shuts down its own end for what the server says. So the kernel talks to such a server itself, in order to write,
// only with a time limit that a server misses when it hangs, and not when it or its disk is busy (slowest). With a shorter one
// all goes through this process, which sends nothing twice while a connection lasts.
//
// # Readers that stay
//
// Whoever reads from a connection in the kernel looks for its socket each time anew, and may not have noticed that it is dead when it
// gets another: it is waiting for a request's lock, or the machine has other things to do. Then two read from the new one, and what
// they make of it is wrong. So the kernel gets a connection only when it reads from no more than are alive (awaitReaders).
package nbd
