// Package nbd speaks the Network Block Device protocol: a server whose exports are anything that can be read, and perhaps
// written, at an offset, and a client.
//
// A [Server] negotiates fixed newstyle, with TLS, structured replies, extended headers and metadata contexts for clients
// that ask for them. What an export offers is what its [Device] can do: one that is also a [Writer] can be written to, a
// [Flusher] flushed, a [Trimmer] trimmed, a [Zeroer] zeroed, a [Prefetcher] told what will be read, and a [Mapper] asked
// what of it is allocated.
//
// A [Client] is an export of a server, as such a device, found by its URI with [Dial].
//
// The protocol is doc/proto.md of https://github.com/NetworkBlockDevice/nbd, and for extended headers the same file of its
// branch extension-ext-header. Of that document there are no RESIZE, which is only a draft, and no oldstyle negotiation.
package nbd
