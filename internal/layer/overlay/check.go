package overlay

import (
	"context"
	"fmt"
	"time"

	"github.com/dnbd/dnbd/block"
)

// Info is what an overlay's file says of itself.
type Info struct {
	Base    Base
	Held    Held
	Created time.Time
	Written time.Time // when its metadata was last put on stable storage
	// Open says that a device has it open, or that it was not closed as it should: whoever uses it next sees to that.
	Open bool
	// Resumed says that what was not flushed is there too, since the machine has not been started since. Held counts it.
	Resumed bool
	// Faults are places in the metadata that do not match their checksums, of which there is another copy that does. A file
	// that was not closed may have some where a flush was cut short.
	Faults []Fault
}

// Inspect reads all metadata of an overlay, and changes nothing. The error is ErrFormat or ErrVersion if it is none that is
// known, and a *DamageError if it cannot be used. While a device has it open Faults, and the error, mean nothing.
func Inspect(ctx context.Context, scratch block.Device) (*Info, error) {
	f, err := load(ctx, scratch, thisBoot())
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("%w: it begins with zeroes, and becomes one when it is used", ErrFormat)
	}
	return &Info{
		Base: f.header.base, Held: f.states.held(), Created: f.header.created, Written: f.header.written,
		Open: f.wasOpen, Resumed: f.resumed, Faults: f.faults,
	}, nil
}
