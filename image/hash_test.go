package image

import (
	"strings"
	"testing"
)

func TestSumIsBLAKE3(t *testing.T) {
	// From the test vectors of the BLAKE3 specification: no input, and 1024 bytes counting from 0 modulo 251.
	counting := make([]byte, 1024)
	for i := range counting {
		counting[i] = byte(i % 251)
	}
	for want, p := range map[string][]byte{
		"af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262": nil,
		"42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7": counting,
	} {
		if got := Sum(p).String(); got != want {
			t.Errorf("Sum of %d bytes = %s, want %s", len(p), got, want)
		}
	}
}

func TestZeroHashIsThatOfZeroBytes(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 8191, 8192, 8193, MaxBlockSize} {
		if ZeroHash(n) != Sum(make([]byte, n)) {
			t.Errorf("ZeroHash(%d) is not the hash of %d zero bytes", n, n)
		}
	}
}

func TestAnIDReadsBackFromItsText(t *testing.T) {
	id := ID(Sum([]byte("x")))
	for _, s := range []string{id.String(), strings.ToUpper(id.String())} {
		if got, err := ParseID(s); err != nil || got != id {
			t.Errorf("ParseID(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "ab", id.String()[1:], id.String() + "00", "g" + id.String()[1:], "debian-12"} {
		if got, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) = %v, want an error", s, got)
		}
	}
}
