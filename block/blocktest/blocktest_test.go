package blocktest

import (
	"bytes"
	"testing"

	"github.com/dnbd/dnbd/block"
)

func TestMemoryConforms(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef!"), 30_000)
	Conform(t, data, func(*testing.T) block.Device { return NewMemory(data) })
}
