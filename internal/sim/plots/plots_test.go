package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

const docs = "../../../docs"

func TestThePicturesShowWhatTheProtocolDoes(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("other processors round otherwise: a run of theirs is another one")
	}
	for _, p := range pictures {
		t.Run(p.file, func(t *testing.T) {
			t.Parallel()
			want := p.draw(seed)
			if got, err := os.ReadFile(filepath.Join(docs, p.file)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the picture in docs is another one (%v): make plots", err)
			}
			if len(want) > 30<<10 {
				t.Errorf("it has %d bytes", len(want))
			}
		})
	}
}

func TestGridLinesAreRoundAndFew(t *testing.T) {
	for top, want := range map[float64]float64{0.5: 0.1, 2: 0.5, 30: 5, 60: 10, 120: 20, 240: 50, 1200: 200} {
		if got := grid(top); got != want {
			t.Errorf("up to %v: %v, want %v", top, got, want)
		}
	}
}
