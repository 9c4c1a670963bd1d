package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/dnbd/dnbd/internal/flock"
)

func TestInfoTellsGeometryAndFill(t *testing.T) {
	path := fileWith(t, 16, 5)
	c := mustOpen(t, path, nil)
	for i := 10; i < 13; i++ {
		put(c, i, true)
	}
	size := c.Stats().Bytes
	inUse, err := Info(path) // as the commands do while a device uses the file
	if err != nil {
		t.Fatal(err)
	}
	if want := flock.Holder(c.store.(*fileStore).f); inUse.HeldBy != want {
		t.Errorf("held by %d, want %d", inUse.HeldBy, want)
	}
	id := fmt.Sprintf("%x", c.store.(*fileStore).header.id)
	closeCache(t, c)
	flip(t, path, headerSize+2*recordSize)
	got, err := Info(path)
	_, lost := block(2, MinSlotSize)
	want := Summary{
		Path: path, ID: id, Version: 1, FileSize: sizeFor(16), SlotSize: MinSlotSize, Slots: 16,
		Used: 7, Unread: 3, Bytes: size - int64(len(lost)), DamagedRecords: 1,
	}
	if err != nil || got != want {
		t.Errorf("Info = %+v, %v, want %+v", got, err, want)
	}
}

func TestCheckFindsEveryBadSlotAndChangesNothing(t *testing.T) {
	path := fileWith(t, 16, 10)
	flip(t, path, headerSize+2*recordSize+40)
	flip(t, path, dataOffset(16)+4*MinSlotSize)
	flip(t, path, dataOffset(16)+7*MinSlotSize+3000)
	flip(t, path, dataOffset(16)+12*MinSlotSize) // an empty slot may hold anything
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var done, total int64
	rep, err := Check(t.Context(), path, func(d, n int64) {
		if d <= done || total != 0 && n != total {
			t.Errorf("progress %d of %d after %d of %d", d, n, done, total)
		}
		done, total = d, n
	})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Good != 7 || rep.Bad != 3 || rep.Empty != 6 || rep.DamagedRecords != 1 || rep.HeldBy != 0 || done != total || total != rep.Bytes {
		t.Errorf("%+v, progress ended at %d of %d", rep, done, total)
	}
	want := []Fault{
		{2, dataOffset(16) + 2*MinSlotSize, errRecord.Error()},
		{4, dataOffset(16) + 4*MinSlotSize, errHash.Error()},
		{7, dataOffset(16) + 7*MinSlotSize, errHash.Error()},
	}
	if fmt.Sprint(rep.Faults) != fmt.Sprint(want) {
		t.Errorf("faults %v, want %v", rep.Faults, want)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("Check changed the file (%v)", err)
	}
}

func TestCheckEndsWithItsContext(t *testing.T) {
	path := fileWith(t, 16, 16)
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	_, err := Check(ctx, path, func(int64, int64) {
		calls++
		cancel()
	})
	if !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("%v after %d entries", err, calls)
	}
}

func TestAFileIsNotOpenedWhileItIsChecked(t *testing.T) {
	path := fileWith(t, 8, 8)
	tried := false
	_, err := Check(t.Context(), path, func(int64, int64) {
		tried = true
		if c, err := Open(path, 0, MinSlotSize, nil); !errors.Is(err, ErrInUse) {
			t.Errorf("Open: %v", err)
			if err == nil {
				c.Close()
			}
		}
	})
	if err != nil || !tried {
		t.Errorf("Check: %v, tried %v", err, tried)
	}
}

func TestABlankFileHasNothingToSee(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Info(path); !errors.Is(err, ErrBlank) {
		t.Errorf("Info: %v", err)
	}
	if _, err := Check(t.Context(), path, nil); !errors.Is(err, ErrBlank) {
		t.Errorf("Check: %v", err)
	}
	if _, err := Info(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Info of no file: %v", err)
	}
}
