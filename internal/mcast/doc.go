// Package mcast is the multicast protocol as state machines: Sender serves images, Receiver fetches one image, Finder asks what
// there is. docs/protocol.md says what they say to each other.
//
// The machines have no sockets, clocks, goroutines or randomness of their own. Time and datagrams go in; datagrams, "load
// this block" and "this block is complete" come out. So a test steps one machine line by line, a simulator steps thousands in
// virtual time, and a socket loop steps one for real, and a failure replays from its seed. A machine is not safe for concurrent
// use: its owner serialises the calls, and after each call takes what came out.
//
// Three ideas carry the protocol.
//
// Seen makes suppression exact. Each image's stream of symbols is numbered. A WANT says up to which number its sender has
// heard the stream. If the server sent the wanted block later than that, the block crossed the WANT on its way and nothing is
// sent; if it sent it earlier, the client missed it and it is sent again. No timer is involved, so asking again is always safe:
// it costs one small datagram and never a block.
//
// Repair by parity. A client that is short of r symbols of a block asks for r of them, not for which. The server sends symbols
// that nobody has seen yet, as many as the neediest client asked for; each repairs a different loss at each client.
//
// Everybody asks the same server for the same block. Rendezvous hashing orders the live replicas for each run of blocks alike
// at every client, so that requests meet and are merged, and replicas share the load.
//
// What was not done: no negative acknowledgements to the group (RFC 5740, NORM) because the exact suppression at the server makes
// them redundant and unicast requests do not disturb the other clients; no symbol lists in requests, because parity makes
// all missing symbols alike.
package mcast

import (
	"net/netip"
)

// Packet is a control datagram to be sent.
type Packet struct {
	To   netip.AddrPort
	Data []byte // owned by whoever took the packet
}
