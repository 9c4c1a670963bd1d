package block

import (
	"errors"
	"fmt"
	"math"
	"os"
	"syscall"
	"testing"
)

func TestCheckRangeRefusesWhatLeavesTheDevice(t *testing.T) {
	for _, c := range []struct {
		size, off int64
		n         int
		ok        bool
	}{
		{10, 0, 10, true},
		{10, 10, 0, true},
		{10, 9, 1, true},
		{10, 9, 2, false},
		{10, 11, 0, false},
		{10, -1, 1, false},
		{10, math.MaxInt64, 1, false},
		{math.MaxInt64, math.MaxInt64 - 1, 1, true},
		{math.MaxInt64, math.MaxInt64 - 1, 2, false},
		{0, 0, 0, true},
		{0, 0, 1, false},
		{10, 5, -1, false},
	} {
		err := CheckRange(c.size, c.off, c.n)
		if (err == nil) != c.ok || (err != nil && !errors.Is(err, ErrRange)) {
			t.Errorf("CheckRange(%d, %d, %d) = %v, want ok=%v", c.size, c.off, c.n, err, c.ok)
		}
	}
}

func TestErrnoIsThatOfTheFirstErrorWithOne(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{fmt.Errorf("read block 3: %w", ErrRange), syscall.EINVAL},
		{fmt.Errorf("read block 3: %w", ErrTimeout), syscall.EIO},
		{&os.PathError{Op: "read", Path: "/x", Err: syscall.ENOSPC}, syscall.ENOSPC},
		{errors.New("no number"), syscall.EIO},
		{fmt.Errorf("zero fast: %w", errors.ErrUnsupported), syscall.ENOTSUP},
	} {
		if got := Errno(c.err); got != c.want {
			t.Errorf("Errno(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}
