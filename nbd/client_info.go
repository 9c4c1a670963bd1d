package nbd

import (
	"crypto/tls"
	"encoding/binary"
	"math"
)

// ExportInfo is what a server says of an export.
type ExportInfo struct {
	// Name is the export's name, the server's own one where it told that.
	Name string
	// Description is the server's text for people; it may be empty.
	Description string
	// Size is the length in bytes.
	Size int64

	// What the export is, and which requests may be sent, "Transmission flags".
	ReadOnly, Rotational, MultiConn                    bool
	Flush, FUA, Trim, WriteZeroes, FastZero, DF, Cache bool

	// MinBlock is what offsets and lengths on the wire are multiples of, in bytes; PreferredBlock is what they had better be;
	// MaxPayload is the most data of one request. They are the protocol's defaults, 1, 4096 and 32 MiB, where the server
	// announced none. Callers of a Client need not care: it cuts and widens requests.
	MinBlock, PreferredBlock, MaxPayload uint32
	// Contexts are the names of the metadata contexts: in a list those that the server has, of a Client those it may ask for.
	Contexts []string
}

// ClientInfo is what a Client has agreed on with its server.
type ClientInfo struct {
	ExportInfo
	// Replies is the form of the replies: "simple", "structured" or "extended".
	Replies string
	// TLS is the state of the encryption of the first connection, nil without encryption.
	TLS *tls.ConnectionState
	// Connections is how many there are.
	Connections int
}

// The forms of replies, in ascending order of what they can say.
type replyForm uint8

const (
	formSimple replyForm = iota
	formStructured
	formExtended
)

func (f replyForm) String() string { return [...]string{"simple", "structured", "extended"}[f] }

// agreement is what one connection has agreed on.
type agreement struct {
	info     ExportInfo
	flags    uint16
	form     replyForm
	contexts map[uint32]string // by the connection's own id
	tls      *tls.ConnectionState
}

// setExport takes what "NBD_INFO_EXPORT" and the answer to EXPORT_NAME say: 8 bytes of size and 2 of flags.
func (a *agreement) setExport(b []byte) error {
	size := binary.BigEndian.Uint64(b)
	if size > math.MaxInt64 {
		return lies("an export of %d bytes", size)
	}
	a.info.Size = int64(size)
	a.flags = binary.BigEndian.Uint16(b[8:])
	has := func(flag uint16) bool { return a.flags&exportHasFlags != 0 && a.flags&flag != 0 }
	i := &a.info
	i.ReadOnly, i.Rotational, i.MultiConn = has(exportReadOnly), has(exportRotational), has(exportMultiConn)
	i.Flush, i.FUA, i.Trim = has(exportFlush), has(exportFUA), has(exportTrim)
	i.WriteZeroes, i.Cache = has(exportWriteZeroes), has(exportCache)
	i.FastZero = i.WriteZeroes && has(exportFastZero)
	i.DF = a.form >= formStructured && has(exportDF)
	return nil
}

// setBlockSize takes what "NBD_INFO_BLOCK_SIZE" says: three numbers of 4 bytes. What breaks the rules of "Size constraints"
// so that nobody can obey it is a lie; a minimum above 64 KiB can be obeyed.
func (a *agreement) setBlockSize(b []byte) error {
	smallest, preferred, most := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	power := func(n uint32) bool { return n != 0 && n&(n-1) == 0 }
	if !power(smallest) || !power(preferred) || smallest > maxPayload || preferred < smallest || most < smallest {
		return lies("block sizes of %d (minimum), %d (preferred) and %d (maximum)", smallest, preferred, most)
	}
	a.info.MinBlock, a.info.PreferredBlock, a.info.MaxPayload = smallest, preferred, most
	return nil
}
