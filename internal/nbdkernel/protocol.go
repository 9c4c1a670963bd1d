//go:build linux

package nbdkernel

// The names and numbers of include/uapi/linux/nbd-netlink.h.
const (
	familyName     = "nbd"
	multicastGroup = "nbd_mc_group"

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdLinkDead    = 4
	cmdStatus      = 5
)

// Attributes.
const (
	attrIndex           = 1  // uint32
	attrSize            = 2  // uint64, bytes
	attrBlockSize       = 3  // uint64, bytes
	attrTimeout         = 4  // uint64, seconds
	attrServerFlags     = 5  // uint64, the protocol's transmission flags
	attrClientFlags     = 6  // uint64
	attrSockets         = 7  // nested: sockItem
	attrDeadConnTimeout = 8  // uint64, seconds
	attrDeviceList      = 9  // nested: deviceItem
	attrBackend         = 10 // string, since Linux 5.14

	sockItem = 1 // nested: sockFD
	sockFD   = 1 // uint32

	deviceItem      = 1 // nested: the following two
	deviceIndex     = 1 // uint32
	deviceConnected = 2 // uint8
)

// The client flags.
const (
	// DestroyOnDisconnect removes the device when it is disconnected and nobody has it open.
	DestroyOnDisconnect = 1 << 0
	// DisconnectOnClose disconnects the device when the last one who has it open closes it.
	DisconnectOnClose = 1 << 1
)

// maxBackend is the longest backend identifier that sysfs can show: a page less the newline and the NUL.
const maxBackend = 4094
