package image

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

func TestTheIDHashesTheDocumentedBytes(t *testing.T) {
	d := Descriptor{Name: "x", Revision: 1, Size: 0x0102030405, BlockSize: 0x10000, Root: Hash{0xaa, 31: 0xbb}}
	want := Sum([]byte("dnbd-image-id\x00\x00\x00" + "\x00\x00\x00\x01" + "\x00\x00\x00\x01" +
		"\x00\x00\x00\x01\x02\x03\x04\x05" + "\x00\x01\x00\x00" + "\xaa" + strings.Repeat("\x00", 30) + "\xbb"))
	if got := d.ID(); got != ID(want) {
		t.Errorf("ID() = %v, want %v", got, want)
	}
	const golden = "6e5445bb874059c5b9520b6875335a4ecae543313a3d4dcc87eaa12d4fc8e06d"
	if got := d.ID().String(); got != golden {
		t.Errorf("ID() = %s, want %s as ever", got, golden)
	}
}

func TestTheIDIsOfTheContentNotOfTheLabels(t *testing.T) {
	d := Descriptor{Name: "x", Revision: 1, Size: 5, BlockSize: 4096, Root: Hash{1}}
	same := d
	same.Name, same.Revision, same.Created = "y", 7, time.Unix(1, 0)
	if same.ID() != d.ID() {
		t.Error("labels change the id")
	}
	for what, change := range map[string]func(*Descriptor){
		"size":       func(d *Descriptor) { d.Size++ },
		"block size": func(d *Descriptor) { d.BlockSize *= 2 },
		"root":       func(d *Descriptor) { d.Root[31]++ },
	} {
		other := d
		change(&other)
		if other.ID() == d.ID() {
			t.Errorf("another %s has the same id", what)
		}
	}
}

func TestADescriptorIsValidated(t *testing.T) {
	valid := Descriptor{Name: "debian-12.4_a+B", Revision: 1, Size: 1, BlockSize: DefaultBlockSize}
	name := func(s string) func(*Descriptor) { return func(d *Descriptor) { d.Name = s } }
	size := func(size int64, blockSize int) func(*Descriptor) {
		return func(d *Descriptor) { d.Size, d.BlockSize = size, blockSize }
	}
	for what, c := range map[string]struct {
		change func(*Descriptor)
		want   error
	}{
		"valid":                    {func(*Descriptor) {}, nil},
		"longest name":             {name(strings.Repeat("a", MaxNameLen)), nil},
		"63 hexadecimal digits":    {name(strings.Repeat("a", 63)), nil},
		"smallest block size":      {size(1, MinBlockSize), nil},
		"largest block size":       {size(1, MaxBlockSize), nil},
		"no name":                  {name(""), ErrName},
		"name too long":            {name(strings.Repeat("a", MaxNameLen+1)), ErrName},
		"space":                    {name("a b"), ErrName},
		"slash":                    {name("a/b"), ErrName},
		"at":                       {name("a@1"), ErrName},
		"not ASCII":                {name("größe"), ErrName},
		"not UTF-8":                {name("a\xff"), ErrName},
		"leading dot":              {name("..a"), ErrName},
		"leading dash":             {name("-rf"), ErrName},
		"like an id":               {name(strings.Repeat("aB", 32)), ErrName},
		"revision 0":               {func(d *Descriptor) { d.Revision = 0 }, ErrRevision},
		"size 0":                   {size(0, 4096), ErrSize},
		"size negative":            {size(-1, 4096), ErrSize},
		"block size 0":             {size(1, 0), ErrBlockSize},
		"block size negative":      {size(1, -4096), ErrBlockSize},
		"block size too small":     {size(1, MinBlockSize/2), ErrBlockSize},
		"block size too large":     {size(1, MaxBlockSize*2), ErrBlockSize},
		"block size no power of 2": {size(1, 4096+512), ErrBlockSize},
		"largest image":            {size(1<<44-1<<38, 4096), nil},
		"too many data blocks":     {size(1<<44, 4096), ErrTooManyBlocks},
		"too many with pages":      {size((1<<32-1)*4096, 4096), ErrTooManyBlocks},
		"largest size":             {size(math.MaxInt64, MaxBlockSize), ErrTooManyBlocks},
	} {
		d := valid
		c.change(&d)
		if err := d.Validate(); !errors.Is(err, c.want) {
			t.Errorf("%s: Validate() = %v, want %v", what, err, c.want)
		}
	}
}
