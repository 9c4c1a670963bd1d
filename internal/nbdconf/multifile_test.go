package nbdconf

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"reflect"
	"strings"
	"testing"
)

func TestParts(t *testing.T) {
	broken := errors.New("broken disk")
	for _, c := range []struct {
		name     string
		sizes    []int64 // of /f.0 and on; -1 fails
		filesize int64
		want     []Part
		bad      string
	}{
		{"one", []int64{10}, 0, []Part{{"/f.0", 0, 10}}, ""},
		{"three", []int64{10, 0, 5}, 0, []Part{{"/f.0", 0, 10}, {"/f.1", 10, 0}, {"/f.2", 10, 5}}, ""},
		{"all of it", []int64{10, 5}, 15, []Part{{"/f.0", 0, 10}, {"/f.1", 10, 5}}, ""},
		{"cut within the last", []int64{10, 5}, 12, []Part{{"/f.0", 0, 10}, {"/f.1", 10, 2}}, ""},
		{"cut at a boundary", []int64{10, 5}, 10, []Part{{"/f.0", 0, 10}}, ""},
		{"too short", []int64{10, 5}, 16, nil, "hold 15 bytes, and filesize is 16"},
		{"none", nil, 0, nil, "/f.0: file does not exist"},
		{"a part fails", []int64{10, -1, 5}, 0, nil, "broken disk"},
		{"too large", []int64{math.MaxInt64, 1}, 0, nil, "too large"},
		{"too many", make([]int64, maxParts+1), 0, nil, "more than 4096 files"},
	} {
		got, err := Parts("/f", c.filesize, func(path string) (int64, error) {
			var i int
			if n, err := fmt.Sscanf(path, "/f.%d", &i); n != 1 {
				t.Fatalf("%s: asked for %s: %v", c.name, path, err)
			}
			switch {
			case i >= len(c.sizes):
				return 0, fs.ErrNotExist
			case c.sizes[i] < 0:
				return 0, broken
			}
			return c.sizes[i], nil
		})
		if c.bad != "" {
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: got %v, want an error with %q", c.name, err, c.bad)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, %v, want %v", c.name, got, err, c.want)
		}
	}
}
