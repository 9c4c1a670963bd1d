//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// storages are the ways to keep what is written.
func storages(t *testing.T, test func(t *testing.T, flags ...string)) {
	t.Run("file", func(t *testing.T) { test(t, "--writable") })
	t.Run("overlay", func(t *testing.T) { test(t, "--cow="+t.TempDir()) })
}

// crashes is how often a process is killed in a test, and pause after how many writes at most.
const crashes, pause = 6, 600

func TestWhatWasFlushedOutlivesAServerThatIsKilled(t *testing.T) {
	t.Parallel()
	storages(t, func(t *testing.T, flags ...string) {
		socket := socketPath(t)
		s := serving(t, append(flags, "--nbd", "unix:"+socket, diskFile(t))...)
		l := newLoad(t)
		rng := rand.New(rand.NewPCG(l.seed, 0))
		for round := range crashes {
			c := dialed(t, socket)
			l.crashed.Store(false)
			done := make(chan struct{})
			go func() {
				l.run(t.Context(), c, round)
				close(done)
			}()
			l.await(1 + rng.IntN(pause))
			l.crashed.Store(true)
			s.kill()
			<-done
			s.start()
			l.check(dialed(t, socket))
		}
	})
}

func TestWhatWasFlushedOutlivesKillsBehindAReexport(t *testing.T) {
	t.Parallel()
	storages(t, func(t *testing.T, flags ...string) {
		behind, front := socketPath(t), socketPath(t)
		s := serving(t, append(flags, "--nbd", "unix:"+behind, diskFile(t))...)
		serving(t, "--writable", "--nbd", "unix:"+front, "nbd+unix:///?socket="+behind)
		l := newLoad(t)
		rng := rand.New(rand.NewPCG(l.seed, 0))
		c := dialed(t, front)
		// The one in the middle connects again, and its client notices nothing but flushes that fail.
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			l.run(ctx, c, 0)
			close(done)
		}()
		for range crashes {
			l.await(1 + rng.IntN(pause))
			s.kill()
			s.start()
		}
		l.await(pause)
		stop()
		<-done
		if err := l.flush(t.Context(), c); err != nil {
			t.Error(err)
		}
		l.check(c)
	})
}

func TestWhatWasFlushedOutlivesAReexportThatIsKilled(t *testing.T) {
	t.Parallel()
	storages(t, func(t *testing.T, flags ...string) {
		behind, front := socketPath(t), socketPath(t)
		serving(t, append(flags, "--nbd", "unix:"+behind, diskFile(t))...)
		s := serving(t, "--writable", "--nbd", "unix:"+front, "nbd+unix:///?socket="+behind)
		l := newLoad(t)
		rng := rand.New(rand.NewPCG(l.seed, 0))
		for round := range crashes {
			c := dialed(t, front)
			l.crashed.Store(false)
			done := make(chan struct{})
			go func() {
				l.run(t.Context(), c, round)
				close(done)
			}()
			l.await(1 + rng.IntN(pause))
			l.crashed.Store(true)
			s.kill()
			<-done
			s.start()
			l.check(dialed(t, front))
		}
	})
}

// SIGTERM is no crash: what was answered is there, flushed or not, and the exit code is 0.
func TestAServerThatIsToldToStopLosesNothing(t *testing.T) {
	t.Parallel()
	storages(t, func(t *testing.T, flags ...string) {
		socket := socketPath(t)
		s := serving(t, append(flags, "--nbd", "unix:"+socket, diskFile(t))...)
		l := newLoad(t)
		c := dialed(t, socket)
		done := make(chan struct{})
		go func() {
			l.run(t.Context(), c, 0)
			close(done)
		}()
		l.await(pause)
		l.crashed.Store(true)
		if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := s.cmd.Wait(); err != nil {
			t.Errorf("SIGTERM ends the server with %v", err)
		}
		<-done
		for i := range l.log {
			l.log[i].stable = l.log[i].answered
		}
		s.start()
		l.check(dialed(t, socket))
	})
}

// Each block is as it was or as it is to be after a copy that was killed, and a copy that says that it is done is on the disk.
func TestACopyThatIsKilledIsMadeAgain(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	source, before := filepath.Join(folder, "source.img"), bytes.Repeat([]byte{0xee}, loadSize)
	want := make([]byte, loadSize)
	rand.NewChaCha8([32]byte{1}).Read(want)
	target := diskFile(t)
	for path, b := range map[string][]byte{source: want, target: before} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket := socketPath(t)
	// Slow, so that there is a middle.
	s := serving(t, "--writable", "--rate", "40Mbit", "--nbd", "unix:"+socket, target)
	copying := func() *exec.Cmd {
		return exec.Command("dnbd", "copy", source, "nbd+unix:///?socket="+socket)
	}
	c := dialed(t, socket)
	for round := range int64(4) {
		cmd := copying()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		off := round * loadSize / 8
		for p := before[:loadSector:loadSector]; bytes.Equal(p, before[loadSize-loadSector:]); {
			p = make([]byte, loadSector)
			if err := c.ReadAt(t.Context(), p, off); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the copy was complete before it could be killed")
		}
	}
	got, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < loadSize; at += loadSector {
		if b := got[at:][:loadSector]; !bytes.Equal(b, before[:loadSector]) && !bytes.Equal(b, want[at:][:loadSector]) {
			t.Fatalf("the sector at %d is neither what it was nor what it is to be", at)
		}
	}
	if out, err := copying().CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.kill()
	if got, err = os.ReadFile(target); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was copied is not there (%v)", err)
	}
}

// fio writes, has what it wrote flushed, and goes on elsewhere when the server is killed.
func TestFioFindsWhatItFlushedAfterAKill(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("fio"); err != nil {
		lacking(t, "fio is not installed")
	}
	storages(t, func(t *testing.T, flags ...string) {
		socket := socketPath(t)
		s := serving(t, append(flags, "--nbd", "unix:"+socket, diskFile(t))...)
		fio := func(args ...string) *exec.Cmd {
			cmd := exec.Command("fio", append([]string{
				"--name=x", "--ioengine=nbd", "--uri=nbd+unix:///?socket=" + socket, "--rw=randwrite",
				"--iodepth=32", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--bs=4k",
			}, args...)...)
			cmd.Dir = t.TempDir()
			return cmd
		}
		for round := range 3 {
			seed := fmt.Sprintf("--randseed=%d", round)
			half := []string{seed, "--size=4M", "--offset=0"}
			if out, err := fio(append(half, "--do_verify=0", "--end_fsync=1")...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			c := dialed(t, socket)
			more := fio(seed, "--size=4M", "--offset=4M", "--do_verify=0", "--time_based", "--runtime=600")
			if err := more.Start(); err != nil {
				t.Fatal(err)
			}
			// It is in the middle when something of this round is there.
			read := func() []byte {
				p := make([]byte, loadSize/2)
				if err := c.ReadAt(t.Context(), p, loadSize/2); err != nil {
					t.Fatal(err)
				}
				return p
			}
			for first := read(); bytes.Equal(first, read()); {
			}
			s.kill()
			if err := more.Wait(); err == nil {
				t.Error("fio did not notice that the server was killed")
			}
			s.start()
			if out, err := fio(append(half, "--verify_only=1")...).CombinedOutput(); err != nil {
				t.Fatalf("round %d: %v\n%s", round, err, out)
			}
		}
	})
}
