package nbd

// The numbers of the NBD protocol, from doc/proto.md of the NetworkBlockDevice/nbd repository. All integers on the wire
// are big-endian. Section names in quotes are that document's.

// Magic numbers.
const (
	magicServer     = 0x4e42444d41474943 // "NBDMAGIC", the server's first 8 bytes
	magicOption     = 0x49484156454f5054 // "IHAVEOPT", follows it, and begins every option
	magicOptReply   = 0x0003e889045565a9
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef

	magicExtendedRequest = 0x21e41c71
	magicExtendedReply   = 0x6e8a278c
)

// Flags of the handshake, "Handshake flags" and "Client flags"; the server's and the client's have the same bits.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Flags of an export, "Transmission flags".
const (
	exportHasFlags           = 1 << 0
	exportReadOnly           = 1 << 1
	exportFlush              = 1 << 2
	exportFUA                = 1 << 3
	exportRotational         = 1 << 4
	exportTrim               = 1 << 5
	exportWriteZeroes        = 1 << 6
	exportDF                 = 1 << 7
	exportMultiConn          = 1 << 8
	exportResize             = 1 << 9
	exportCache              = 1 << 10
	exportFastZero           = 1 << 11
	exportBlockStatusPayload = 1 << 12
)

// Options, "Option types".
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
	optExtendedHeaders = 11
)

// Replies to options, "Option reply types". Those with bit 31 set are errors, whose data is a text for people.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4

	repError             = 1 << 31
	repErrUnsup          = repError | 1
	repErrPolicy         = repError | 2
	repErrInvalid        = repError | 3
	repErrPlatform       = repError | 4
	repErrTLSReqd        = repError | 5
	repErrUnknown        = repError | 6
	repErrShutdown       = repError | 7
	repErrBlockSizeReqd  = repError | 8
	repErrTooBig         = repError | 9
	repErrExtHeadersReqd = repError | 10
)

// Kinds of information in a repInfo.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// Requests, "Request types".
const (
	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdCache       = 5
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
	cmdResize      = 8
)

// Flags of requests, "Command flags".
const (
	cmdFlagFUA        = 1 << 0
	cmdFlagNoHole     = 1 << 1
	cmdFlagDF         = 1 << 2
	cmdFlagReqOne     = 1 << 3
	cmdFlagFastZero   = 1 << 4
	cmdFlagPayloadLen = 1 << 5
)

// Structured replies, "Structured reply flags" and "Structured reply types".
const (
	replyFlagDone = 1 << 0

	replyNone           = 0
	replyOffsetData     = 1
	replyOffsetHole     = 2
	replyBlockStatus    = 5
	replyBlockStatusExt = 6
	replyError          = 1<<15 | 1
	replyErrorOffset    = 1<<15 | 2
)

// ContextAllocation is the context that every server of sparse images knows, "Metadata contexts".
const ContextAllocation = "base:allocation"

// What that context says of an extent.
const (
	stateHole = 1 << 0
	stateZero = 1 << 1
)

// Lengths in bytes.
const (
	lenOptionHeader          = 16
	lenRequestHeader         = 28
	lenExtendedRequestHeader = 32  // "EXTENDED_HEADERS"
	lenZeroes                = 124 // of reserved padding after an EXPORT_NAME, unless flagNoZeroes was agreed

	// maxString is the longest name, description or error text, "Conventions".
	maxString = 4096
	// maxPayload is the most that one request may read or write. A client that agreed on nothing stays within 32 MiB, "Size
	// constraints"; those that ask are told this.
	maxPayload = 64 << 20
)
