package attach

import "time"

// What some attachments can do beside the methods that all have. Which an attachment has it says by having the method.
type (
	// Inspector is an attachment that tells more of its device.
	Inspector interface {
		Inspect() Details
	}

	// Adjuster is an attachment whose time limits can be changed while it is in use. What is 0 in t stays.
	Adjuster interface {
		Adjust(t Times) error
	}

	// Forcer is an attachment that can be closed while it is in use, or hung. What is under way, and whatever its holders ask
	// of the device later, fails. It returns in seconds.
	Forcer interface {
		Force() error
	}
)

// Times are the time limits of a device.
type Times struct {
	// Request is how long one request may go unanswered before its connection counts as broken, and it is sent again.
	Request time.Duration
	// Dead is how long requests wait while there is no connection at all, before they fail.
	Dead time.Duration
}

// Details are what there is to know of a device while it is in use.
type Details struct {
	// Kernel is the kernel's own name of the device, such as /dev/nbd3.
	Kernel string
	// Times are the device's time limits.
	Times Times
	// Connections are those that the kernel has.
	Connections []Connection
	// Features are what the other end can do, in the words of the protocol.
	Features []string
	// Requests are those that were answered, and Errors those of them that failed, as far as this process knows.
	Requests, Errors uint64
	// Outstanding are the requests that were not answered yet, and Oldest is the age of the oldest one; 0 when that cannot be
	// known.
	Outstanding int
	Oldest      time.Duration
	// Lost is how often a connection ended that was not meant to, and LastLost why it did the last time.
	Lost     int
	LastLost string
}

// Connection is one of a device's connections.
type Connection struct {
	// Peer is the other end's address; empty for a connection that was made by a process that has ended since.
	Peer string
	// Alive says whether the connection is there.
	Alive bool
	// Since is when that was last made or lost.
	Since time.Time
	// RTT is the smoothed round-trip time, where there is one.
	RTT time.Duration
}
