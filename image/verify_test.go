package image

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestVerifyNamesTheBlocksThatDiffer(t *testing.T) {
	data := randomBytes(20*4096+1, 1)
	path := writeImage(t, data)
	mustCreate(t, path, CreateOptions{BlockSize: 4096})
	verify := func() *Verification {
		t.Helper()
		var last, total int64
		v, err := Verify(t.Context(), path, func(done, of int64) { last, total = done, of })
		if err != nil {
			t.Fatal(err)
		}
		if last != int64(len(data)) || total != last {
			t.Errorf("progress ended at %d of %d, want %d", last, total, len(data))
		}
		return v
	}
	if v := verify(); len(v.Differing) != 0 || v.Blocks != 0 || v.Touched || v.Descriptor.Name != "disk" {
		t.Errorf("unchanged: %+v", v)
	}
	for _, b := range []int{0, 3, 4, 5, 19, 20} {
		data[b*4096] ^= 1
	}
	overwrite(t, path, data)
	touch(t, path, time.Unix(1_800_000_000, 0))
	v := verify()
	if want := []Run{{0, 0}, {3, 5}, {19, 20}}; !slices.Equal(v.Differing, want) || v.Blocks != 6 || !v.Touched {
		t.Errorf("%+v, want %v", v, want)
	}
}

func TestVerifyNeedsTheFilesOwnSidecar(t *testing.T) {
	path := writeImage(t, randomBytes(5000, 1))
	if _, err := Verify(t.Context(), path, nil); !errors.Is(err, ErrNoSidecar) {
		t.Errorf("Verify = %v, want ErrNoSidecar", err)
	}
	mustCreate(t, path, CreateOptions{})
	overwrite(t, path, randomBytes(5001, 1))
	if _, err := Verify(t.Context(), path, nil); !errors.Is(err, ErrOtherFile) {
		t.Errorf("Verify = %v, want ErrOtherFile", err)
	}
}
