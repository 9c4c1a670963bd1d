package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/dnbd/dnbd/internal/cache"
)

// runCache runs `dnbd cache ARGS` and returns what it prints on stdout.
func runCache(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := cacheCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// cacheFile makes a cache file of 1 MiB that holds n blocks of 64 KiB.
func cacheFile(t *testing.T, n int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cache")
	c, err := cache.Open(path, 1<<20, 64<<10, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		data := bytes.Repeat([]byte{byte(i + 1)}, 64<<10)
		c.Put(blake3.Sum256(data), data, i%2 == 0)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCacheInfoShowsGeometryAndFill(t *testing.T) {
	path := cacheFile(t, 3)
	out, err := runCache(t, "info", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		path + ", 1 MiB", "15 of 64 KiB", "3 blocks (20 % of the slots), 192 KiB, 2 of them overheard", "damaged   0", "in use    no",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	out, err = runCache(t, "info", "--json", path)
	var sum cache.Summary
	if err := errors.Join(err, json.Unmarshal([]byte(out), &sum)); err != nil || sum.Slots != 15 || sum.Used != 3 || sum.Path != path {
		t.Errorf("%v, %s", err, out)
	}
}

func TestCacheInfoNamesTheProcessThatUsesTheFile(t *testing.T) {
	path := cacheFile(t, 1)
	c, err := cache.Open(path, 0, 64<<10, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if sum, err := cache.Info(path); err != nil || sum.HeldBy == 0 {
		t.Skipf("the system does not tell who holds a lock (%v)", err)
	}
	if out, err := runCache(t, "info", path); err != nil || !strings.Contains(out, fmt.Sprintf("by process %d\n", os.Getpid())) {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := runCache(t, "check", path); !errors.Is(err, cache.ErrInUse) {
		t.Errorf("check of a file in use: %v", err)
	}
}

func TestCacheCheckFailsWhenABlockIsBad(t *testing.T) {
	path := cacheFile(t, 5)
	out, err := runCache(t, "check", path)
	if err != nil || !strings.Contains(out, "5 blocks are good, 0 bad, 10 slots are empty") {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	const slot2 = 8192 + 2*65536
	if _, err := f.WriteAt([]byte{0xff}, slot2+100); err != nil {
		t.Fatal(err)
	}
	f.Close()
	out, err = runCache(t, "check", path)
	if err == nil || !strings.Contains(err.Error(), "1 of 15 slots") || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(out, "4 blocks are good, 1 bad") || !strings.Contains(out, fmt.Sprintf("slot 2 at byte %d", slot2)) {
		t.Errorf("prints\n%s", out)
	}
	out, err = runCache(t, "check", "--json", path)
	var rep cache.Report
	if jsonErr := json.Unmarshal([]byte(out), &rep); err == nil || jsonErr != nil || rep.Good != 4 || rep.Bad != 1 || len(rep.Faults) != 1 {
		t.Errorf("%v, %v, %s", err, jsonErr, out)
	}
}

func TestCacheCommandsNameTheFileTheyCannotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("not a cache"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"info", "check"} {
		if _, err := runCache(t, verb, path); !errors.Is(err, cache.ErrForeign) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", verb, err)
		}
		if _, err := runCache(t, verb); err == nil {
			t.Errorf("%s without a file succeeded", verb)
		}
	}
}
