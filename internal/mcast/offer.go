package mcast

import (
	"fmt"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/wire"
)

// Descriptor is the image that an offer describes. The error says why it cannot be one.
func Descriptor(o *wire.Offer) (image.Descriptor, error) {
	d := image.Descriptor{
		Name:      o.Name,
		Revision:  o.Revision,
		Created:   time.Unix(o.Created, 0),
		Size:      int64(o.Size),
		BlockSize: 1 << (o.BlockLog & 31),
		Root:      image.Hash(o.Root),
	}
	if o.Algorithm != image.AlgorithmBLAKE3 {
		return d, fmt.Errorf("image %s: hash algorithm %d is not known", o.Name, o.Algorithm)
	}
	return d, d.Validate()
}
