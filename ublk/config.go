package ublk

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
)

// Bounds and defaults of a Config.
const (
	// sector is the unit in which the kernel counts, in bytes.
	sector = 512
	// pageSize bounds block sizes: no page may hold less than a block.
	pageSize = 4096
	// DefaultBlockSize is what every file system can live with.
	DefaultBlockSize = 512
	// DefaultDepth is how many requests of a queue are under way at once. It hides a server's distance, and bounds memory.
	DefaultDepth = 64
	// MaxDepth is the most that the kernel allows, UBLK_MAX_QUEUE_DEPTH.
	MaxDepth = 4096
	// DefaultMaxIO is the largest request in bytes. Larger ones gained nothing for streams.
	DefaultMaxIO = 512 << 10
	// MaxMaxIO is the most that the kernel allows: 25 bits of an offset.
	MaxMaxIO = 32 << 20
	// defaultQueues is the number of queues above which more processors gain nothing.
	defaultQueues = 4
	// maxQueues is the most that the kernel allows, UBLK_MAX_NR_QUEUES.
	maxQueues = 4096
	// maxRequests bounds Queues × Depth: an io_uring has no more entries, and one is for waking.
	maxRequests = 1<<15 - 1
	// maxSpan is how many bytes one trim or one write of zeroes may cover. It bounds how long it keeps others waiting.
	maxSpan = 1 << 30
)

// Config says what disk to make.
type Config struct {
	// Device is what the disk is made of. It must stay usable until Close has returned, and its size must be a multiple of
	// BlockSize.
	Device Device
	// ReadOnly keeps users from writing to a Device that could be written to.
	ReadOnly bool
	// Recover keeps the disk when its process dies: requests, those under way too, wait until Resume has given it another
	// process, or Delete has taken it away. A request that was under way is carried out once more; so what the device has
	// answered must not have been in the dead process's memory only.
	Recover bool
	// Tag is a number of the caller's own that the kernel keeps with the disk, for finding it again: Info has it.
	Tag uint64
	// BlockSize is the smallest unit of reads and writes in bytes, a power of two from 512 to 4096; 0 is DefaultBlockSize. The
	// kernel is told to prefer 4096.
	BlockSize int
	// Queues is how many queues of requests there are; 0 is one for each processor, up to 4. The kernel makes no more than
	// there are processors.
	Queues int
	// Depth is how many requests of each queue can be under way; 0 is DefaultDepth.
	Depth int
	// MaxIO is the size of the largest read or write in bytes, a multiple of 4096; 0 is DefaultMaxIO. A disk has as much memory
	// as Queues × Depth × MaxIO when all of it is in use at once.
	MaxIO int
}

// withDefaults returns c with its defaults filled in, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	for _, field := range []struct {
		value   *int
		without int
	}{
		{&c.BlockSize, DefaultBlockSize},
		{&c.Queues, min(runtime.NumCPU(), defaultQueues)},
		{&c.Depth, DefaultDepth},
		{&c.MaxIO, DefaultMaxIO},
	} {
		if *field.value == 0 {
			*field.value = field.without
		}
	}
	switch {
	case c.Device == nil:
		return c, errors.New("Config.Device is missing")
	case bits.OnesCount(uint(c.BlockSize)) != 1 || c.BlockSize < sector || c.BlockSize > pageSize:
		return c, fmt.Errorf("Config.BlockSize is %d; a power of two from %d to %d is needed", c.BlockSize, sector, pageSize)
	case c.Device.Size() <= 0 || c.Device.Size()%int64(c.BlockSize) != 0:
		return c, fmt.Errorf("the device has %d bytes; blocks of %d are needed, at least one", c.Device.Size(), c.BlockSize)
	case c.Queues < 1 || c.Queues > maxQueues:
		return c, fmt.Errorf("Config.Queues is %d; there can be 1 to %d", c.Queues, maxQueues)
	case c.Depth < 1 || c.Depth > MaxDepth:
		return c, fmt.Errorf("Config.Depth is %d; 1 to %d is possible", c.Depth, MaxDepth)
	case c.Queues*c.Depth > maxRequests:
		return c, fmt.Errorf("Config.Queues × Config.Depth is %d; up to %d is possible", c.Queues*c.Depth, maxRequests)
	case c.MaxIO < pageSize || c.MaxIO > MaxMaxIO || c.MaxIO%pageSize != 0:
		return c, fmt.Errorf("Config.MaxIO is %d; a multiple of %d up to %d is needed", c.MaxIO, pageSize, MaxMaxIO)
	}
	return c, nil
}
