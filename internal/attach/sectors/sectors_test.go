package sectors

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
)

func TestPaddingReadsAsZeroes(t *testing.T) {
	image := bytes.Repeat([]byte{7}, 700)
	d := Whole(blocktest.NewMemory(image))
	got := make([]byte, 4096)
	if err := d.ReadAt(context.Background(), got, 0); err != nil || !bytes.Equal(got, append(image, make([]byte, 4096-700)...)) {
		t.Errorf("read %v…, %v", got[690:710], err)
	}
	if err := d.ReadAt(context.Background(), got[:512], 1024); err != nil || !bytes.Equal(got[:512], make([]byte, 512)) {
		t.Errorf("behind the end: %v", err)
	}
	if err := d.ReadAt(context.Background(), got, 1); !errors.Is(err, block.ErrRange) {
		t.Errorf("past the padding: %v", err)
	}
}
