package nbd_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dnbd/dnbd/nbd"
)

func TestClientSurvivesServersThatAreKilled(t *testing.T) {
	t.Run("whose writes are with the kernel", func(t *testing.T) { surviveKills(t, nbd.DialConfig{Connections: 2}) })
	t.Run("that lose what was not flushed", func(t *testing.T) {
		surviveKills(t, nbd.DialConfig{Connections: 2, Replay: 1 << 20}, "--filter=cache")
	})
}

// surviveKills writes to an nbdkit that is killed in mid-write, again and again, and looks whether all is there that was answered.
func surviveKills(t *testing.T, config nbd.DialConfig, filters ...string) {
	const blocks, block, crashes, writers = 4096, 4096, 5, 8
	folder := t.TempDir()
	file, socket := filepath.Join(folder, "disk"), filepath.Join(folder, "s")
	ok(t, os.WriteFile(file, make([]byte, blocks*block), 0o600))
	s := spawn(t, "unix", socket, append(append([]string{"nbdkit", "-f", "--exit-with-parent", "-U", socket}, filters...), "file", file)...)
	config.Reconnect = deadline
	client := connect(t, "nbd+unix:///?socket="+socket, config)
	ctx := soon(t)
	flush := func() error {
		err := client.Flush(ctx)
		if config.Replay == 0 && errors.Is(err, nbd.ErrWritesLost) {
			return nil
		}
		return err
	}

	// Each writer has every eighth block, and counts up what it writes. The log has what was answered.
	var log [blocks]uint64
	stop, written := make(chan struct{}), make(chan struct{}, 1)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			p := make([]byte, block)
			for value := uint64(1); ; value++ {
				select {
				case <-stop:
					return
				default:
				}
				i := (int(value)*writers*7 + w) % blocks
				for at := 0; at < block; at += 8 {
					binary.BigEndian.PutUint64(p[at:], value)
				}
				if err := client.WriteAt(ctx, p, int64(i)*block, value%16 == 0); err != nil {
					t.Error(err)
					return
				}
				log[i] = value
				if value%64 == 0 {
					if err := flush(); err != nil {
						t.Error(err)
						return
					}
				}
				select {
				case written <- struct{}{}:
				default:
				}
			}
		})
	}
	for range crashes {
		for range 200 {
			select {
			case <-written:
			case <-time.After(deadline):
				t.Fatal("nothing is written")
			}
		}
		s.kill()
		ok(t, os.Remove(socket))
		s.start()
	}
	close(stop)
	wg.Wait()
	if err := flush(); err != nil {
		t.Error(err)
	}
	s.listening("unix", socket)
	client.Close()
	s.kill()

	// All that was answered must be there: what a killed server wrote stays with the kernel, and what it did not is replayed.
	got, err := os.ReadFile(file)
	ok(t, err)
	for i, value := range log {
		want := bytes.Repeat(binary.BigEndian.AppendUint64(nil, value), block/8)
		if !bytes.Equal(got[i*block:][:block], want) {
			t.Errorf("block %d has %x, want %x", i, got[i*block:][:8], value)
		}
	}
}

func TestClientGivesUpServersThatDoNotComeBack(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	s := spawn(t, "unix", socket, "nbdkit", "-f", "--exit-with-parent", "-U", socket, "null", "size=1M")
	never := connect(t, "nbd+unix:///?socket="+socket, nbd.DialConfig{})
	while := connect(t, "nbd+unix:///?socket="+socket, nbd.DialConfig{Reconnect: 100 * time.Millisecond})
	s.kill()
	for _, c := range []*nbd.Client{never, while} {
		if err := c.ReadAt(soon(t), make([]byte, 1), 0); err == nil {
			t.Error("a read from a server that is gone succeeds")
		}
	}
}
