package client

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
)

// mapped is how many bytes of addresses this process has.
func mapped(t *testing.T) (n int64) {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err == nil {
		_, err = fmt.Sscan(string(statm), &n)
	}
	if err != nil {
		t.Fatal(err)
	}
	return n * int64(os.Getpagesize())
}

func TestAClientThatCannotListenKeepsNoMemory(t *testing.T) {
	m := makeImage(t, content(), 65536)
	bad := Config{Network: Network{Group: netip.MustParseAddrPort("10.0.0.1:1"), Log: quiet}, Descriptor: m.Descriptor(), Log: quiet}
	const times = 64
	before := mapped(t)
	for range times {
		if c, err := Open(bad); err == nil {
			c.Close()
			t.Fatal("a group that is none is listened to")
		}
	}
	if grown := mapped(t) - before; grown > times/4*DefaultMemory {
		t.Errorf("%d clients that could not be opened keep %d MiB", times, grown>>20)
	}
}
