//go:build linux

package nbdkernel

import (
	"errors"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mdlayher/netlink"
)

// list is an answer to STATUS as the kernel makes it.
func list(t testing.TB, devices map[uint32]uint8) []byte {
	t.Helper()
	e := netlink.NewAttributeEncoder()
	e.Nested(attrDeviceList, func(list *netlink.AttributeEncoder) error {
		for index, connected := range devices {
			list.Nested(deviceItem, func(item *netlink.AttributeEncoder) error {
				item.Uint32(deviceIndex, index)
				item.Uint8(deviceConnected, connected)
				return nil
			})
		}
		return nil
	})
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStatusSaysWhichDevicesAreConnected(t *testing.T) {
	got := make(map[int]bool)
	if err := decodeStatus(list(t, map[uint32]uint8{0: 1, 7: 0}), got); err != nil || !maps.Equal(got, map[int]bool{0: true, 7: false}) {
		t.Errorf("decoded %v, %v", got, err)
	}
}

func FuzzDecodeStatus(f *testing.F) {
	f.Add(list(f, map[uint32]uint8{0: 1}))
	f.Add([]byte{5, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		got := make(map[int]bool)
		if err := decodeStatus(b, got); err == nil && len(got)*8 > len(b) {
			t.Errorf("%d devices in %d bytes", len(got), len(b))
		}
	})
}

func TestIndexKnowsTheKernelsOwnNames(t *testing.T) {
	for path, want := range map[string]int{"/dev/nbd0": 0, "/dev/nbd17": 17} {
		if got, ok := Index(path); !ok || got != want {
			t.Errorf("Index(%s) = %d, %v", path, got, ok)
		}
	}
	for _, path := range []string{"/dev/nbd", "/dev/nbd0p1", "/dev/nbd-1", "/dev/nbd+1", "/dev/nbd01", "/dev/dnbd0", "nbd0", ""} {
		if got, ok := Index(path); ok {
			t.Errorf("Index(%s) = %d", path, got)
		}
	}
}

func TestReceiversAreTheWorkersThatAreAtWork(t *testing.T) {
	for name, c := range map[string]struct {
		index int
		stats []string
		want  int // -1: it cannot be seen
	}{
		"none":              {0, []string{"9 (nbd0-recv) I 2 0 0"}, 0},
		"none, Linux 6.12":  {0, []string{"9 (kworker/R-nbd0-) I 2 0 0"}, 0},
		"the tenth":         {10, []string{"9 (kworker/R-nbd10) I 2 0 0"}, 0},
		"another's":         {1, []string{"9 (kworker/R-nbd10) I 2 0 0"}, -1},
		"another's, too":    {10, []string{"9 (kworker/R-nbd1-) I 2 0 0"}, -1},
		"two of three":      {0, []string{"7 (kworker/u9:1+nbd0-recv) D 2 0", "8 (kworker/u9:2-nbd0-recv) I 2 0", "9 (kworker/u9:3+nbd0-recv) D 2 0"}, 2},
		"the rescuer works": {0, []string{"9 (nbd0-recv+nbd0-recv) D 2 0"}, 1},
		"of another device": {0, []string{"9 (nbd0-recv) I 2 0 0", "8 (kworker/u9:1+nbd10-recv) I 2 0"}, 0},
		"a program":         {0, []string{"8 (x+nbd0-recv) S 1 1 1", "9 (nbd0-recv) S 1 1 1"}, -1},
		"odd names":         {0, []string{"7 () I 2", "8 )( I 2 0", "9 (a) b) S 2 0", "", "10 (nbd0-recv) I"}, -1},
	} {
		proc := fstest.MapFS{"uptime": {}}
		for n, stat := range c.stats {
			proc[path.Join(strconv.Itoa(n+1), "stat")] = &fstest.MapFile{Data: []byte(stat)}
		}
		got, err := receivers(proc, c.index)
		if c.want < 0 && !errors.Is(err, errors.ErrUnsupported) || c.want >= 0 && (err != nil || got != c.want) {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
}

func TestPartsOfASecondCountAsAWhole(t *testing.T) {
	for d, want := range map[time.Duration]uint64{time.Nanosecond: 1, time.Second: 1, 1500 * time.Millisecond: 2} {
		if got := seconds(d); got != want {
			t.Errorf("%v is %d s", d, got)
		}
	}
}

func TestAConfigurationIsCheckedBeforeTheKernelIsAsked(t *testing.T) {
	good := Config{Size: 512, BlockSize: 512, Sockets: []int{0}}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for what, spoil := range map[string]func(*Config){
		"size":             func(c *Config) { c.Size = 0 },
		"block size 1000":  func(c *Config) { c.BlockSize = 1000 },
		"block size 65536": func(c *Config) { c.BlockSize = 65536 },
		"no socket":        func(c *Config) { c.Sockets = nil },
		"more than one":    func(c *Config) { c.Backend = "a\nb" },
		"longer than":      func(c *Config) { c.Backend = strings.Repeat("a", 4095) },
	} {
		c := good
		spoil(&c)
		if err := c.check(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestDestroyEndsAConnectionOfAnybody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	local, remote := netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(conn.RemoteAddr().String())
	err = Destroy(local, remote)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatalf("DNBD_REQUIRE=1, and %v", err)
		}
		t.Skip(err) // a kernel without it; tests in virtual machines have one with it
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
		t.Errorf("a read from the connection that was ended: %v", err)
	}
	if err := Destroy(local, remote); err != nil {
		t.Errorf("once more: %v", err)
	}
}
