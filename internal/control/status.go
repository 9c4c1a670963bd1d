package control

import "time"

// Status is what a process is doing at one moment. Counters start at 0 when the process does.
type Status struct {
	API     int       `json:"api"`
	Version string    `json:"version"` // of dnbd
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Socket  string    `json:"socket"`        // this control socket
	Log     string    `json:"log,omitempty"` // the file that the process logs to, if it does
	// Group is where servers and clients meet, as ADDRESS:PORT; empty where there is none.
	Group string `json:"group"`
	// Interfaces are the names of those in use.
	Interfaces []string `json:"interfaces"`
	// Keys are the ids of the group's keys: the first one seals, all open. It is missing where the group has none.
	Keys []string `json:"keys,omitempty"`
	// Attachment is set in a process that attaches, Server in one that serves.
	Attachment *Attachment `json:"attachment,omitempty"`
	Server     *Server     `json:"server,omitempty"`
}

// Image is an image.
type Image struct {
	Name      string `json:"name"`
	Revision  uint64 `json:"revision"`
	ID        string `json:"id"`
	Size      int64  `json:"size"`       // in bytes
	BlockSize int    `json:"block_size"` // in bytes
}

// Attachment is an image that this machine has as a device.
type Attachment struct {
	Device   string    `json:"device"`           // the path that programs open: a device, or the socket
	Driver   string    `json:"driver"`           // ublk, nbd, fuse or socket
	URI      string    `json:"uri,omitempty"`    // for NBD clients, with the socket driver
	Target   string    `json:"target"`           // how the image was named
	Image    Image     `json:"image"`            //
	Waiting  int       `json:"waiting"`          // blocks that reads wait for
	OverNBD  bool      `json:"over_nbd"`         // group data does not arrive, or the group is too fast, and blocks are read over NBD
	Slow     bool      `json:"slow"`             // the group is faster than this machine's link
	Cache    Cache     `json:"cache"`            //
	Traffic  Traffic   `json:"traffic"`          //
	Replicas []Replica `json:"replicas"`         // the servers that have the image
	Kernel   *Kernel   `json:"kernel,omitempty"` // the kernel's device, with drivers that know it
	// Overlay is set where what is written is kept on this machine.
	Overlay *Overlay `json:"overlay,omitempty"`
}

// Overlay is what keeps the writes to an attachment.
type Overlay struct {
	File string `json:"file"`
	Data int64  `json:"data"` // bytes of blocks that were written
	Zero int64  `json:"zero"` // bytes of blocks that were made zero, which take no space
}

// Kernel is a device of the kernel's behind an attachment.
type Kernel struct {
	Device      string       `json:"device"`              // its own name, such as /dev/nbd3
	Timeout     float64      `json:"timeout_s"`           // in seconds, after which a request is sent again on another connection
	DeadTimeout float64      `json:"dead_timeout_s"`      // in seconds, after which requests fail while there is no connection
	Features    []string     `json:"features"`            // of the other end
	Connections []Connection `json:"connections"`         //
	Requests    uint64       `json:"requests"`            // answered
	Errors      uint64       `json:"errors"`              // of these, failed, as far as is known
	Outstanding int          `json:"outstanding"`         // not answered
	Oldest      float64      `json:"oldest_s"`            // age of the oldest of these in seconds; 0 when it is not known
	Lost        int          `json:"lost"`                // connections that ended without being asked to
	LastLost    string       `json:"last_lost,omitempty"` // what was wrong the last time
}

// Connection is a connection of a Kernel.
type Connection struct {
	Peer  string    `json:"peer,omitempty"` // ADDRESS:PORT; empty when an earlier process made it
	Alive bool      `json:"alive"`
	Since time.Time `json:"since"`  // it was made or lost
	RTT   int64     `json:"rtt_us"` // smoothed, in microseconds; 0 when there is none
}

// Cache is what keeps an attachment's blocks.
type Cache struct {
	File     string `json:"file,omitempty"` // empty: in memory
	Capacity int64  `json:"capacity"`       // in bytes
	Used     int64  `json:"used"`           // in bytes
	Hits     uint64 `json:"hits"`           // reads of blocks that it had
	Misses   uint64 `json:"misses"`         // reads of blocks that it had not
	Replaced uint64 `json:"replaced"`       // blocks that gave way to others
	Bad      uint64 `json:"bad"`            // blocks found damaged when they were read
}

// Traffic is what was read from an attachment, and what came for it.
type Traffic struct {
	Read       uint64 `json:"read"`         // bytes that programs read from it
	Errors     uint64 `json:"errors"`       // reads that failed
	Wanted     uint64 `json:"wanted"`       // bytes of blocks that it asked for
	Overheard  uint64 `json:"overheard"`    // bytes of blocks that others had asked for
	Fetched    uint64 `json:"over_nbd"`     // bytes of blocks that were read over NBD
	Repaired   uint64 `json:"repaired"`     // bytes that were lost and restored from parity
	Duplicates uint64 `json:"duplicates"`   // bytes that were here already
	Refused    uint64 `json:"refused"`      // blocks whose bytes did not match their hash
	Drops      uint64 `json:"kernel_drops"` // datagrams that the kernel had no room for
	Unopened   Seals  `json:"unopened"`
}

// Seals counts datagrams that were not let in because of their seal.
type Seals struct {
	Foreign  uint64 `json:"foreign"`  // sealed under a key that is not here
	Plain    uint64 `json:"plain"`    // not sealed, where the group has a key
	Forged   uint64 `json:"forged"`   // changed, or made without the key
	Replayed uint64 `json:"replayed"` // here before
}

// The states of a Replica.
const (
	Live    = "live"
	Stalled = "stalled"
)

// Replica is a server that has an attachment's image.
type Replica struct {
	Server  uint16  `json:"server"`  // its id; 0 without a group
	Address string  `json:"address"` // ADDRESS:PORT
	State   string  `json:"state"`   // Live or Stalled
	RTT     int64   `json:"rtt_us"`  // smoothed, in microseconds
	Share   float64 `json:"share"`   // of the blocks that were asked for, 0 to 1
	Rate    uint64  `json:"rate"`    // at which it sends, in bits a second
}

// Server is a server.
type Server struct {
	ID     uint16   `json:"id"`
	Images []Served `json:"images"`
	Links  []Link   `json:"links"`
	NBD    *NBD     `json:"nbd,omitempty"`
}

// NBD is a server's exports over NBD.
type NBD struct {
	URIs        []string `json:"uris"`        // of its listeners
	Exports     []Export `json:"exports"`     // those that are no images
	Connections int64    `json:"connections"` // open now
	Accepted    int64    `json:"accepted"`    // connections so far
	Requests    int64    `json:"requests"`    // answered
	Failed      int64    `json:"failed"`      // of these, answered with an error
	Bytes       int64    `json:"bytes"`       // of data in answers
}

// Served is an image of a server.
type Served struct {
	Image
	File string `json:"file"`
	// Withdrawn says that the file is no longer what was hashed, and that the image is not offered.
	Withdrawn bool `json:"withdrawn"`
}

// What NBD clients may do with an Export.
const (
	ReadOnly    = "read-only"
	Writable    = "writable"
	CopyOnWrite = "copy-on-write" // each connection has its own copy, as long as it lasts
)

// Export is a file that is exported as it is.
type Export struct {
	Name   string `json:"name"`
	File   string `json:"file"`
	Access string `json:"access"`
}

// Link is a server on one interface.
type Link struct {
	Interface  string `json:"interface"`
	Address    string `json:"address"`      // ADDRESS:PORT that it sends from
	Clients    int    `json:"clients"`      // heard lately
	Slow       int    `json:"slow"`         // of them, that lose much of what is sent, while most others get most of it
	Rate       uint64 `json:"rate"`         // that it paces at, in bits a second
	Queued     int    `json:"queued"`       // symbols that wait to be sent
	Sent       uint64 `json:"sent"`         // bytes on the wire, frames included
	Blocks     uint64 `json:"blocks"`       // sent whole
	Repairs    uint64 `json:"repairs"`      // parity symbols sent because they were asked for
	Parity     uint64 `json:"parity"`       // parity symbols sent unasked
	Wants      uint64 `json:"wants"`        // requests that arrived, in datagrams
	Suppressed uint64 `json:"suppressed"`   // blocks not sent again because they were on their way
	Merged     uint64 `json:"merged"`       // blocks asked for while they were queued for another client
	Refused    uint64 `json:"refused"`      // blocks asked for again beyond what the client reports to receive
	Denied     uint64 `json:"denied"`       // requests
	Malformed  uint64 `json:"malformed"`    // datagrams
	Drops      uint64 `json:"kernel_drops"` // requests that the kernel had no room for
	Unopened   Seals  `json:"unopened"`
	// Querier is set where the server was told to ask hosts for their memberships.
	Querier *Querier `json:"querier,omitempty"`
}

// Querier is who asks hosts for their memberships.
type Querier struct {
	Protocol string `json:"protocol"`        // IGMP or MLD
	Asking   bool   `json:"asking"`          // the server does
	Other    string `json:"other,omitempty"` // the address of the querier that does in its place
}
