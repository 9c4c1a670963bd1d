package nbd

import "context"

// Device is what an export reads from: an array of bytes of fixed size, which may be far away.
//
// Both methods may be called from many goroutines at once.
type Device interface {
	// ReadAt fills p with the bytes at off. When it returns an error the contents of p are never sent. The server only
	// reads within the device. ReadAt should return soon after ctx ends.
	//
	// The client is told the errno of the error: that of a method Errno() syscall.Errno or a syscall.Errno, whichever is
	// found in its chain, as far as NBD has a number for it, otherwise EIO.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// Size is the device's length in bytes. It does not change.
	Size() int64
}

// Export is a device that clients can ask for by name.
type Export struct {
	// Name is what clients ask for: at most 4096 bytes of UTF-8 without NUL, and unique among a server's exports. A client
	// that asks for the empty name gets the export with the empty name or, when there is none, the first one.
	Name string
	// Description is a text for people that clients may show beside the name. It may be empty.
	Description string
	// Device has the bytes. The server does not close it.
	Device Device
	// BlockSize is the read size and alignment in bytes that suits the device best, which clients are told: a power of two
	// from 512 to 32 MiB. 0 means 4096. Clients may read any other size.
	BlockSize uint32
}
