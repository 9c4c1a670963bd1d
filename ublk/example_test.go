package ublk_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/dnbd/dnbd/ublk"
)

// memory is a device that can be written to and zeroed. It has nothing to flush: what is written is as safe as it will ever be.
type memory struct {
	mu sync.RWMutex
	b  []byte
}

func (m *memory) Size() int64 { return int64(len(m.b)) }

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	copy(p, m.b[off:])
	return nil
}

func (m *memory) WriteAt(_ context.Context, p []byte, off int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.b[off:], p)
	return nil
}

func (m *memory) WriteZeroes(_ context.Context, off, n int64, _, _, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.b[off : off+n])
	return nil
}

func Example() {
	if err := ublk.Available(); err != nil {
		fmt.Println("no disk can be made:", err)
		return
	}
	disk, err := ublk.New(context.Background(), ublk.Config{Device: &memory{b: make([]byte, 64<<20)}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("use", disk.Path()) // mkfs.ext4 /dev/ublkb0; mount /dev/ublkb0 /mnt

	<-disk.Done() // until somebody stops it
	if err := disk.Close(); err != nil {
		fmt.Println(err)
	}
}

// A process that starts again finds what it has left.
func ExampleResume() {
	const mine = 0x6d656d6f7279 // no other program has this tag
	config := ublk.Config{Device: &memory{b: make([]byte, 64<<20)}, Recover: true, Tag: mine}
	disks, err := ublk.List()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, d := range disks {
		if d.Tag == mine {
			disk, err := ublk.Resume(context.Background(), d.ID, config)
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(disk.Path(), "goes on")
			<-disk.Done()
			return
		}
	}
}
