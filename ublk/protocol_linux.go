//go:build linux && (amd64 || arm64 || loong64 || riscv64)

package ublk

import "math/bits"

// The numbers and structures of include/uapi/linux/ublk_cmd.h, with its names in comments where they differ. They are in the
// byte order and the alignment of the machine: structures are copied to and from the kernel as they are.

// ioctl encoding of an opcode, include/uapi/asm-generic/ioctl.h: direction, size of the structure, the letter u, number.
const (
	opRead  = 2 << 30
	opWrite = 1 << 30

	controlOp = controlSize<<16 | 'u'<<8
	ioOp      = ioCommandSize<<16 | 'u'<<8
)

// Commands to the control device, UBLK_U_CMD_*.
const (
	cmdGetInfo        = opRead | controlOp | 0x02 // GET_DEV_INFO
	cmdAdd            = opRead | opWrite | controlOp | 0x04
	cmdDelete         = opRead | opWrite | controlOp | 0x05
	cmdStart          = opRead | opWrite | controlOp | 0x06
	cmdStop           = opRead | opWrite | controlOp | 0x07
	cmdSetParams      = opRead | opWrite | controlOp | 0x08
	cmdGetParams      = opRead | controlOp | 0x09
	cmdStartRecovery  = opRead | opWrite | controlOp | 0x10 // START_USER_RECOVERY
	cmdEndRecovery    = opRead | opWrite | controlOp | 0x11 // END_USER_RECOVERY
	cmdGetFeatures    = opRead | controlOp | 0x13
	cmdDeleteNoWait   = opRead | controlOp | 0x14 // DEL_DEV_ASYNC
	anyID             = 1<<32 - 1                 // for cmdAdd
	noQueue           = 1<<16 - 1
	controlSize       = 32
	ioCommandSize     = 16
	descSize          = 24
	maxDescBytes      = MaxDepth * descSize // UBLKSRV_CMD_BUF_OFFSET + this × the queue's number is where to map descriptors
	resultAborted     = -19                 // UBLK_IO_RES_ABORT, -ENODEV
	cmdFetch          = opRead | opWrite | ioOp | 0x20
	cmdCommitAndFetch = opRead | opWrite | ioOp | 0x21
)

// Flags of a disk, UBLK_F_*.
const (
	flagRecovery    = 1 << 3 // USER_RECOVERY
	flagReissue     = 1 << 4 // USER_RECOVERY_REISSUE
	flagIoctlEncode = 1 << 6 // CMD_IOCTL_ENCODE
)

// controlCommand is struct ublksrv_ctrl_cmd.
type controlCommand struct {
	device  uint32
	queue   uint16
	length  uint16
	address uint64
	data    uint64
	_       uint64
}

// deviceInfo is struct ublksrv_ctrl_dev_info.
type deviceInfo struct {
	queues, depth, state, _ uint16
	maxIO                   uint32
	id                      uint32
	pid                     int32
	_                       uint32
	flags                   uint64
	tag                     uint64 // ublksrv_flags: the driver only keeps it
	uid, gid                uint32
	_                       [2]uint64
}

// Parameters that are given, UBLK_PARAM_TYPE_*.
const (
	paramsBasic   = 1 << 0
	paramsDiscard = 1 << 1
)

// Attributes of a disk, UBLK_ATTR_*.
const (
	attrReadOnly      = 1 << 0
	attrVolatileCache = 1 << 2
	attrFUA           = 1 << 3
)

// deviceParams is struct ublk_params, as far as it is of use here.
type deviceParams struct {
	length uint32
	types  uint32
	basic  struct {
		attrs                                                   uint32
		logicalShift, physicalShift, optimalShift, minimalShift uint8
		maxSectors, chunkSectors                                uint32
		sectors                                                 uint64
		virtBoundaryMask                                        uint64
	}
	discard struct {
		alignment, granularity, maxSectors, maxZeroesSectors uint32
		maxSegments, _                                       uint16
	}
	_ uint32 // to where the next part would begin, and to a multiple of 8 bytes
}

// params describes the disk of c to the kernel.
func (c *Config) params() (p deviceParams) {
	can := c.capabilities()
	p.types = paramsBasic
	b := &p.basic
	if can.writer == nil {
		b.attrs |= attrReadOnly
	}
	if can.flusher != nil {
		b.attrs |= attrVolatileCache | attrFUA
	}
	b.logicalShift = uint8(bits.TrailingZeros(uint(c.BlockSize)))
	b.physicalShift = uint8(bits.TrailingZeros(uint(pageSize)))
	b.minimalShift = b.physicalShift
	// The kernel reads ahead twice this.
	b.optimalShift = uint8(bits.Len(uint(c.MaxIO)) - 1)
	b.maxSectors = uint32(c.MaxIO / sector)
	b.sectors = uint64(c.Device.Size() / sector)
	if can.trimmer != nil || can.zeroer != nil {
		p.types |= paramsDiscard
		p.discard.granularity = pageSize
		p.discard.maxSegments = 1
	}
	if can.trimmer != nil {
		p.discard.maxSectors = maxSpan / sector
	}
	if can.zeroer != nil {
		p.discard.maxZeroesSectors = maxSpan / sector
	}
	return p
}

// ioCommand is struct ublksrv_io_cmd.
type ioCommand struct {
	queue, tag uint16
	result     int32
	address    uint64
}

// Operations of requests, UBLK_IO_OP_*.
const (
	opMask        = 0xff
	opReadData    = 0
	opWriteData   = 1
	opFlush       = 2
	opDiscard     = 3
	opWriteZeroes = 5
)

// Flags of requests, UBLK_IO_F_*.
const (
	requestFUA     = 1 << 13
	requestNoUnmap = 1 << 15
)

// descriptor is struct ublksrv_io_desc.
type descriptor struct {
	opFlags uint32
	sectors uint32
	start   uint64 // in sectors
	address uint64
}
