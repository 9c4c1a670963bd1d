package nbd

import (
	"bytes"
	"runtime"
	"sync"
	"testing"
)

// As many clients as there are processors, and some more, read at once, so that leaders serve large reads of TCP, too.
func TestManyClientsReadMuchAtOnce(t *testing.T) {
	const size, length = 8 << 20, 256 << 10
	s := serve(t, ServerConfig{Exports: []Export{{Device: newBacked(t, size)}}}, listen(t, "tcp"))
	want := patternBytes(0, size)
	var wg sync.WaitGroup
	for range runtime.NumCPU() + 4 {
		n := dial(t, s.addr).chosen(styleStructured)
		wg.Go(func() {
			for range 4 {
				var requests []byte
				for i := range uint64(size / length) {
					requests = append(requests, requestBytes(0, cmdRead, i, i*length, length)...)
				}
				if _, err := n.conn.Write(requests); err != nil {
					t.Error(err)
					return
				}
				for range size / length {
					a, err := readAnswer(n.conn, func(uint64) uint32 { return length })
					if err != nil || !bytes.Equal(a.data, want[a.cookie*length:][:length]) {
						t.Errorf("read %d: wrong bytes, error %d, %v", a.cookie, a.errno, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	for s.count.busy.Load() > 0 { // until each has been looked at once more
		runtime.Gosched()
	}
}
