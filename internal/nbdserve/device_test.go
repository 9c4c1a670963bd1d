package nbdserve

import (
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/nbdconf"
)

func TestWithSyncEachChangeIsOnStableStorage(t *testing.T) {
	for _, sync := range []bool{false, true} {
		disk := blocktest.NewDisk(3 * 4096)
		if err := disk.WriteAt(t.Context(), []byte("zzz"), 4096, true); err != nil {
			t.Fatal(err)
		}
		d := (&export{Export: &nbdconf.Export{Sync: sync, Trim: true}}).offer(disk)
		p := make([]byte, 3)
		for name, change := range map[string]func() error{
			"a write": func() error { return d.(block.Writer).WriteAt(t.Context(), []byte("abc"), 0, false) },
			"zeroes":  func() error { return d.(block.Zeroer).WriteZeroes(t.Context(), 4096, 3, false, false, false) },
		} {
			if err := change(); err != nil {
				t.Fatal(err)
			}
			disk.Crash(nil)
			off := map[string]int64{"a write": 0, "zeroes": 4096}[name]
			if err := d.ReadAt(t.Context(), p, off); err != nil {
				t.Fatal(err)
			}
			before, after := map[string]string{"a write": "\x00\x00\x00", "zeroes": "zzz"}[name], map[string]string{"a write": "abc", "zeroes": "\x00\x00\x00"}[name]
			want := before
			if sync {
				want = after
			}
			if string(p) != want {
				t.Errorf("sync %v, %s: %q after a crash, want %q", sync, name, p, want)
			}
		}
		if err := d.(block.Trimmer).Trim(t.Context(), 0, 4096, false); err != nil {
			t.Fatal(err)
		}
	}
}
