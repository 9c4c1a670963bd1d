package trace

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/block/blocktest"
	"github.com/dnbd/dnbd/internal/layer/delay"
)

func TestTraceConforms(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	blocktest.ConformWritable(t, func(*testing.T) block.Device { return New(blocktest.NewDisk(1<<20+777), log) })
}

func TestEachRequestIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		bad := errors.New("worn out")
		disk := blocktest.Faulty(blocktest.NewDisk(1<<20), func(r block.Request) error {
			if r.Op == block.Trim {
				return bad
			}
			return nil
		})
		d := New(delay.New(disk, time.Second, 2*time.Second), log).(block.Full)
		ctx := t.Context()
		for _, err := range []error{
			d.ReadAt(ctx, make([]byte, 512), 1024),
			d.WriteAt(ctx, make([]byte, 512), 0, true),
			d.Flush(ctx),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		if err := d.Trim(ctx, 0, 4096, false); !errors.Is(err, bad) {
			t.Errorf("Trim: %v", err)
		}
		want := `level=INFO msg=read offset=1024 length=512 took=1s
level=INFO msg=write offset=0 length=512 fua=true took=2s
level=INFO msg=flush took=2s
level=WARN msg=trim offset=0 length=4096 took=2s error="trim 4096 bytes at 0: worn out"
`
		if out.String() != want {
			t.Errorf("logged\n%swant\n%s", &out, want)
		}
	})
}
