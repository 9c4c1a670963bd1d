package sim

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/wire"
)

// Image is an image whose bytes follow from the block's number, so that every copy can be checked. They are made when they
// are first asked for.
type Image struct {
	ID       [32]byte
	geometry image.Geometry
	desc     image.Descriptor
	coder    *mcast.Coder
	blocks   [][]byte
}

// NewImage returns an image of the given size in bytes.
func NewImage(size int64, blockSize int) *Image {
	d := image.Descriptor{Name: "simulated", Revision: 1, Size: size, BlockSize: blockSize}
	g, err := d.Geometry()
	if err != nil {
		panic("sim: " + err.Error()) // a mistake in a test
	}
	return &Image{ID: d.ID(), geometry: g, desc: d, coder: mcast.NewCoder(), blocks: make([][]byte, g.Total())}
}

// Total is the number of blocks, pages of the tree included.
func (i *Image) Total() uint32 { return i.geometry.Total() }

// Len is the length of a block in bytes.
func (i *Image) Len(block uint32) int { return i.geometry.Len(block) }

// Block returns the bytes of a block. They are not to be changed.
func (i *Image) Block(block uint32) []byte {
	if b := i.blocks[block]; b != nil {
		return b
	}
	b := make([]byte, i.Len(block)+8)
	x := uint64(block)*0x9e3779b97f4a7c15 + 1
	for o := 0; o+8 <= len(b); o += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[o:], x)
	}
	i.blocks[block] = b[:i.Len(block)]
	return i.blocks[block]
}

func (i *Image) export() mcast.Export {
	return mcast.Export{
		ID: i.ID, Blocks: i.Total(), Length: i.Len,
		Offer: wire.Offer{
			Handle: 1, Algorithm: image.AlgorithmBLAKE3, BlockLog: uint8(bits.TrailingZeros(uint(i.desc.BlockSize))),
			Size: uint64(i.desc.Size), Revision: 1, Name: i.desc.Name, Root: i.desc.Root,
			Group: netip.MustParseAddrPort("239.0.7.7:10810"),
		},
	}
}
