package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/image"
)

// runImage runs `dnbd image ARGS` and returns what it prints on stdout. On stderr, which is no terminal, it prints nothing.
func runImage(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := imageCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(t.Context())
	if errs.Len() > 0 {
		t.Errorf("dnbd image %q prints on stderr: %s", args, errs.String())
	}
	return out.String(), err
}

// imageFile makes a file of n bytes that are not zero.
func imageFile(t *testing.T, n int) string {
	t.Helper()
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	path := filepath.Join(t.TempDir(), "debian-12.img")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// changeByte changes the byte at off of a file and leaves its modification time.
func changeByte(t *testing.T, path string, off int) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[off] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, fi.ModTime()); err != nil {
		t.Fatal(err)
	}
}

func TestImageCreateDescribesWhatInfoReads(t *testing.T) {
	path := imageFile(t, 100_000)
	created, err := runImage(t, "create", "--block-size", "4K", "--name", "lab", "--revision", "7", path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := runImage(t, "info", path)
	if err != nil || info != created {
		t.Errorf("info prints\n%s(%v), create printed\n%s", info, err, created)
	}
	for _, want := range []string{"lab\n", "revision  7\n", "97.7 KiB (100000 bytes)", "25 of 4 KiB, 0 of them zero", path + ".dnbd\n"} {
		if !strings.Contains(created, want) {
			t.Errorf("%q is not in\n%s", want, created)
		}
	}
}

func TestImageCreateNamesAnImageAfterItsFileAndCountsRevisions(t *testing.T) {
	path := imageFile(t, 100_000)
	create := func(want string) {
		t.Helper()
		out, err := runImage(t, "create", path)
		if err != nil || !strings.Contains(out, want) || !strings.Contains(out, "name      debian-12\n") {
			t.Errorf("want debian-12 and %q, got\n%s(%v)", want, out, err)
		}
	}
	create("revision  1\n")
	create("revision  1\n")
	changeByte(t, path, 50_000)
	create("revision  2\n")
}

func TestImageInfoAsJSONIsOneObject(t *testing.T) {
	path := imageFile(t, 70_000)
	if _, err := runImage(t, "create", path); err != nil {
		t.Fatal(err)
	}
	out, err := runImage(t, "info", "--json", path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{
		"file": path, "sidecar": path + ".dnbd", "name": "debian-12", "revision": 1.0, "id": m.ID().String(),
		"root": m.Descriptor().Root.String(), "size": 70_000.0, "block_size": 65536.0, "blocks": 2.0, "zero_blocks": 0.0,
		"created": m.Descriptor().Created.Format(time.RFC3339),
	} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
}

func TestImageVerifyPrintsTheRangesThatDiffer(t *testing.T) {
	path := imageFile(t, 10*4096+100)
	if _, err := runImage(t, "create", "--block-size", "4096", path); err != nil {
		t.Fatal(err)
	}
	out, err := runImage(t, "verify", path)
	if err != nil || !strings.Contains(out, "all 11 blocks are those of debian-12 revision 1") {
		t.Errorf("unchanged: %q, %v", out, err)
	}
	for _, off := range []int{0, 3 * 4096, 4*4096 + 9, 10 * 4096} {
		changeByte(t, path, off)
	}
	out, err = runImage(t, "verify", path)
	want := []string{
		"blocks 0-0 differ (bytes 0-4095)", "blocks 3-4 differ (bytes 12288-20479)", "blocks 10-10 differ (bytes 40960-41059)",
	}
	if got := strings.Split(strings.TrimSpace(out), "\n"); !slices.Equal(got, want) {
		t.Errorf("prints %q, want %q", got, want)
	}
	if err == nil || !strings.Contains(err.Error(), "4 of 11 blocks") || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want one that counts the blocks and names the file", err)
	}
}

func TestImageVerifyOfATouchedFileSaysSoAndSucceeds(t *testing.T) {
	path := imageFile(t, 5000)
	if _, err := runImage(t, "create", path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Unix(1_800_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	if out, err := runImage(t, "verify", path); err != nil || !strings.Contains(out, "modification time") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := runImage(t, "info", path); !errors.Is(err, image.ErrStale) {
		t.Errorf("info: %v, want image.ErrStale", err)
	}
}

func TestImageCommandsRefuseWhatTheyCannotDo(t *testing.T) {
	path := imageFile(t, 5000)
	absent := filepath.Join(t.TempDir(), "absent.img")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"create"}, "1 arg"},
		{[]string{"create", path, path}, "1 arg"},
		{[]string{"create", "--blocksize", "4K", path}, "--blocksize"},
		{[]string{"create", "--block-size", "4Q", path}, "--block-size"},
		{[]string{"create", "--block-size", "5000", path}, "--block-size"},
		{[]string{"create", "--block-size", "8E", path}, "--block-size"},
		{[]string{"create", "--block-size", "7E", path}, "--block-size"},
		{[]string{"create", "--name", "", path}, "--name"},
		{[]string{"create", "--name", "a/b", path}, "a/b"},
		{[]string{"create", "--revision", "0", path}, "--revision"},
		{[]string{"create", "--revision", "-1", path}, "--revision"},
		{[]string{"create", "--json", path}, "--json"},
		{[]string{"create", absent}, absent},
		{[]string{"info", absent}, absent},
		{[]string{"info", path}, "no sidecar"},
		{[]string{"verify", path}, "no sidecar"},
		{[]string{"verify", filepath.Dir(path)}, "is a directory"},
		{[]string{"destroy", path}, "destroy"},
	} {
		out, err := runImage(t, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("dnbd image %q: %q, %v, want an error with %q", c.args, out, err, c.want)
		}
	}
	if _, err := os.Stat(path + image.SidecarSuffix); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a sidecar was written: %v", err)
	}
}
