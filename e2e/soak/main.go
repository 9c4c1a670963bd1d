//go:build linux

// Command soak runs dnbd in a network of namespaces for a long time: clients come and go, processes are killed and frozen, and datagrams
// are lost. What clients copied and read is compared with the image. In the end the processes that lived through all of it have to hold
// no more descriptors, goroutines, threads and memory than when they began. `make soak` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/nbd"
)

const (
	imageName = "soak"
	imageSize = 64 << 20
	visitors  = 5 // clients that come and go, c2 and on; c1 stays
	servers   = 3 // s1 and s2 stay, s3 is killed again and again
	// quiet is how long all rests before what processes hold is counted: longer than a server remembers a client.
	quiet = 35 * time.Second
	// patience is how long a visitor may take, whatever happens to it.
	patience = 3 * time.Minute
)

func main() {
	program := flag.String("dnbd", "bin/dnbd", "the dnbd to try")
	length := flag.Duration("time", 30*time.Minute, "how long")
	seed := flag.Uint64("seed", uint64(time.Now().UnixNano()), "of what happens")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := soak(ctx, *program, *length, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// residents are the hosts of the processes that stay: two servers and a client.
var residents = []string{"s1", "s2", "c1"}

// bath is a soak that runs.
type bath struct {
	lab     *lab.Lab
	program string
	dir     string
	rng     *rand.Rand
	image   []byte

	copies, killed, frozen, cut, restarts, reads atomic.Int64
	mu                                           sync.Mutex
	failures                                     []error
}

func (b *bath) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures = append(b.failures, err)
	fmt.Fprintln(os.Stderr, "soak:", err)
}

func soak(ctx context.Context, program string, length time.Duration, seed uint64) (err error) {
	if why := lab.Missing(); why != "" {
		return errors.New("a network of namespaces " + why)
	}
	b := &bath{rng: rand.New(rand.NewPCG(seed, 3))}
	if b.dir, err = os.MkdirTemp("", "dnbd-soak-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.makeImage(); err != nil {
		return err
	}
	if b.program, err = filepath.Abs(program); err != nil {
		return err
	}
	if b.lab, err = lab.New(lab.Options{Servers: servers, Clients: 1 + visitors, ServerRate: 200e6}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.lab.Close()) }()
	fmt.Printf("soak: %v, seed %d\n", length, seed)

	before, err := b.run(ctx, func([]*process) error { return nil })
	if err != nil {
		return err
	}
	after, err := b.run(ctx, func(stay []*process) error { return b.splash(ctx, stay, length) })
	if err != nil {
		return err
	}
	return b.report(before, after)
}

// run starts the processes that stay, lets everything happen once, so that what is made once is there, and then what is to happen. It
// returns what the processes hold when all rests, and has ended them.
func (b *bath) run(ctx context.Context, happen func(stay []*process) error) (held []holding, err error) {
	var stay []*process
	defer func() {
		for _, p := range stay {
			p.kill()
		}
	}()
	for _, host := range residents {
		p, err := b.resident(host)
		if err != nil {
			return nil, err
		}
		stay = append(stay, p)
	}
	if err := b.warmUp(ctx); err != nil {
		return nil, err
	}
	if err := happen(stay); err != nil {
		return nil, err
	}
	if !b.pause(ctx, quiet) {
		return nil, ctx.Err()
	}
	for _, p := range stay {
		h, err := p.holds()
		if err != nil {
			return nil, err
		}
		held = append(held, h)
	}
	return held, nil
}

// splash lets clients come and go, and everything fail, for so long.
func (b *bath) splash(ctx context.Context, stay []*process, length time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { b.readAll(limited) })
	all.Go(func() { b.restartServer(limited) })
	all.Go(func() { b.disturb(limited, stay) })
	for i := range visitors {
		host := fmt.Sprint("c", 2+i)
		rng := rand.New(rand.NewPCG(b.rng.Uint64(), 4))
		all.Go(func() { b.visit(limited, host, rng) })
	}
	all.Wait()
	return ctx.Err()
}

// warmUp lets clients read and copy once.
func (b *bath) warmUp(ctx context.Context) error {
	for {
		err := b.readOnce(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) { // it has not begun to listen, or its forerunner was there
			return err
		}
		if !b.pause(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	for i := range visitors {
		if err := b.copyOnce(ctx, fmt.Sprint("c", 2+i)); err != nil {
			return err
		}
	}
	return nil
}

// socket is where the client that stays serves readers.
func (b *bath) socket() string { return filepath.Join(b.dir, "c1.sock") }

// readAll reads from the client that stays, until ctx ends.
func (b *bath) readAll(ctx context.Context) {
	for ctx.Err() == nil {
		if err := b.readOnce(ctx); err != nil && ctx.Err() == nil {
			b.fail(fmt.Errorf("read from c1: %w", err))
			b.pause(ctx, time.Second)
		}
		b.reads.Add(1)
	}
}

// readOnce connects to the client that stays, reads some of the image, and compares.
func (b *bath) readOnce(ctx context.Context) error {
	c, err := nbd.Dial(ctx, "nbd+unix:///?socket="+b.socket(), nbd.DialConfig{})
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, 256<<10)
	for range 64 {
		b.mu.Lock()
		at := b.rng.Int64N(imageSize - int64(len(buf)))
		b.mu.Unlock()
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		err := c.ReadAt(limited, buf, at)
		cancel()
		if err != nil {
			return fmt.Errorf("%d bytes at %d: %w", len(buf), at, err)
		}
		if string(buf) != string(b.image[at:][:len(buf)]) {
			return fmt.Errorf("%d bytes at %d are not the image's", len(buf), at)
		}
	}
	return nil
}

// visit lets a client come and go.
func (b *bath) visit(ctx context.Context, host string, rng *rand.Rand) {
	for b.pause(ctx, time.Duration(rng.Int64N(int64(2*time.Second)))) {
		if rng.IntN(3) > 0 {
			if err := b.copyOnce(ctx, host); err != nil && ctx.Err() == nil {
				b.fail(err)
			}
			continue
		}
		p, err := b.start(host, "copy", imageName, "null:")
		if err != nil {
			b.fail(err)
			continue
		}
		b.pause(ctx, time.Duration(rng.Int64N(int64(3*time.Second))))
		p.kill()
		b.killed.Add(1)
	}
}

// copyOnce copies the image to a host, and compares. The last one is waited for.
func (b *bath) copyOnce(ctx context.Context, host string) error {
	to := filepath.Join(b.dir, host+".copy")
	p, err := b.start(host, "copy", imageName, to)
	if err != nil {
		return err
	}
	defer p.kill()
	defer os.Remove(to)
	select {
	case <-p.done:
	case <-time.After(patience):
		return fmt.Errorf("%s: a copy is not there after %v: %s", host, patience, p.said())
	}
	if p.failure != nil {
		return fmt.Errorf("%s: copy: %w: %s", host, p.failure, p.said())
	}
	b.copies.Add(1)
	return b.compare(to)
}

// restartServer kills the third server, and starts it anew.
func (b *bath) restartServer(ctx context.Context) {
	for ctx.Err() == nil {
		p, err := b.start("s3", "serve", filepath.Join(b.dir, imageName))
		if err != nil {
			b.fail(err)
			return
		}
		b.pause(ctx, 5*time.Second+b.chance(10*time.Second))
		p.kill()
		b.restarts.Add(1)
		b.pause(ctx, b.chance(5*time.Second))
	}
}

// disturb freezes processes, loses datagrams and cuts hosts off, one after the other, and heals each.
func (b *bath) disturb(ctx context.Context, stay []*process) {
	for b.pause(ctx, b.chance(2*time.Second)) {
		host := fmt.Sprint("c", 1+int(b.chance(1+visitors)))
		var err error
		switch b.chance(4) {
		case 0:
			p := stay[b.chance(2)] // a server
			err = p.cmd.Process.Signal(syscall.SIGSTOP)
			b.pause(ctx, b.chance(3*time.Second))
			err = errors.Join(err, p.cmd.Process.Signal(syscall.SIGCONT))
			b.frozen.Add(1)
		case 1:
			err = b.lab.Loss(host, float64(b.chance(20)))
			b.pause(ctx, b.chance(5*time.Second))
			err = errors.Join(err, b.lab.ClearLoss(host))
			b.cut.Add(1)
		case 2:
			err = b.lab.Block(host)
			b.pause(ctx, b.chance(5*time.Second))
			err = errors.Join(err, b.lab.Unblock(host))
			b.cut.Add(1)
		case 3:
			err = b.lab.Deafen(host)
			b.pause(ctx, b.chance(5*time.Second))
			err = errors.Join(err, b.lab.ClearDeafen(host))
			b.cut.Add(1)
		}
		if err != nil {
			b.fail(err)
		}
	}
}

func (b *bath) chance(n time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Duration(b.rng.Int64N(int64(n)))
}

// pause waits, and says whether ctx goes on.
func (b *bath) pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// report prints what happened, and what the processes that stayed hold after it beside what they hold without.
func (b *bath) report(before, after []holding) error {
	fmt.Printf("%d copies compared, %d clients killed, %d rounds of reads compared; servers: %d killed, %d frozen; %d times loss, no group or no network\n",
		b.copies.Load(), b.killed.Load(), b.reads.Load(), b.restarts.Load(), b.frozen.Load(), b.cut.Load())
	for i, host := range residents {
		fmt.Printf("%s: %v -> %v\n", host, before[i], after[i])
		if err := after[i].exceeds(before[i]); err != nil {
			b.fail(fmt.Errorf("%s: %w", host, err))
		}
	}
	if n := len(b.failures); n > 0 {
		return fmt.Errorf("%d failures", n)
	}
	return nil
}

// makeImage makes the image, of random bytes.
func (b *bath) makeImage() error {
	b.image = make([]byte, imageSize)
	if _, err := io.ReadFull(rand.NewChaCha8([32]byte{1}), b.image); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, imageName), b.image, 0o600)
}

// compare says whether a file is the image.
func (b *bath) compare(file string) error {
	got, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if string(got) != string(b.image) {
		return fmt.Errorf("%s is not the image", file)
	}
	return nil
}
