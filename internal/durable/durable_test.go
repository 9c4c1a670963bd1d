package durable

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestReplaceLeavesTheOldOrTheNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	put := func(text string, then error) error {
		return Replace(path, 0o640, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return errors.Join(err, then)
		})
	}
	expect := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(path); string(got) != want {
			t.Errorf("the file holds %q (%v), want %q", got, err, want)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
			t.Errorf("%d files, want one (%v)", len(entries), err)
		}
	}
	for _, text := range []string{"old", "new"} {
		if err := put(text, nil); err != nil {
			t.Fatal(err)
		}
		expect(text)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, want 0640 (%v)", fi.Mode(), err)
	}
	broken := errors.New("broken")
	if err := put("half", broken); !errors.Is(err, broken) {
		t.Errorf("a failed write: %v", err)
	}
	expect("new")
	if err := Replace(filepath.Join(path, "x"), 0o600, nil); err == nil {
		t.Error("a file was put into a file")
	}
}
