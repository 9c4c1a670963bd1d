package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAFileOfKeysIsReadAsItWasMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "group.key")
	first, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made again over the one that is there: %v", err)
	}
	second := NewKey()
	if err := Replace(path, []Key{first, second}); err != nil {
		t.Fatal(err)
	}
	keys, err := ReadFile(path)
	if err != nil || len(keys) != 2 || keys[0] != first || keys[1] != second {
		t.Errorf("read %v, %v, want %v and %v", keys, err, first, second)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", st.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("files are left: %v", left)
	}
}

func TestAFileThatOthersMayReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "group.key")
	if _, err := Create(path); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("mode %v: %v, want what to do", mode, err)
		}
	}
}

// systemd gives a service's user what it passes on by an ACL, if it can. The mode looks as if a group could read it then.
func TestAFileThatSystemdPassesOnIsTaken(t *testing.T) {
	dir := t.TempDir()
	path, elsewhere := filepath.Join(dir, "group-key"), filepath.Join(t.TempDir(), "group-key")
	for _, path := range []string{path, elsewhere} {
		if _, err := Create(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o440); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadFile(path); err == nil {
		t.Error("it is taken without systemd")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if _, err := ReadFile(path); err != nil {
		t.Error(err)
	}
	if _, err := ReadFile(elsewhere); err == nil {
		t.Error("a file elsewhere is taken")
	}
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err == nil {
		t.Error("one that everybody may read is taken")
	}
}

func TestNoMessageTellsASecret(t *testing.T) {
	k := key(0xab)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if s := fmt.Sprintf(format, k); strings.Contains(strings.ToLower(s), "abab") || strings.Contains(s, "171 171") {
			t.Errorf("%s gives %s", format, s)
		}
	}
}

func TestParseSaysWhichLineIsWrong(t *testing.T) {
	good := string(Text([]Key{key(1)}))
	line := strings.Split(good, "\n")[1]
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "no key"},
		{"comments", "# a\n\n", "no key"},
		{"twice", good + line + "\n", "line 3: key " + key(1).Name() + " is there twice"},
		{"no id", "\n" + strings.Fields(line)[1], "line 2: want"},
		{"three words", line + " x", "line 1: want"},
		{"id too short", "12 " + strings.Fields(line)[1], "line 1: the id"},
		{"id is no number", "hexhexhe " + strings.Fields(line)[1], "line 1: the id"},
		{"secret too short", line[:len(line)-2], "line 1: a key's secret is 64 hexadecimal digits, not 62"},
		{"secret is no number", line[:len(line)-1] + "x", "no hexadecimal digit"},
		{"another secret", line[:len(line)-1] + "2", "is damaged"},
		{"too many", strings.Repeat("x", 1), "line 1"},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), strings.Fields(line)[1][:8]) {
			t.Errorf("%s: the message tells the secret: %v", c.name, err)
		}
	}
	var many []Key
	for i := range byte(maxKeys + 1) {
		many = append(many, key(i))
	}
	if _, err := Parse(Text(many)); err == nil {
		t.Errorf("%d keys are taken", len(many))
	}
}

func TestARingFollowsItsFileAndKeepsItsKeysWhenThatIsBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "group.key")
	if _, err := Create(path); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	next := key(7)
	if err := Replace(path, []Key{next}); err != nil {
		t.Fatal(err)
	}
	r.Refresh(log)
	if got := r.Names(); len(got) != 1 || got[0] != next.Name() {
		t.Errorf("the ring has %v, want %s", got, next.Name())
	}
	before := r.keys.Load()
	r.Refresh(log)
	if r.keys.Load() != before {
		t.Error("keys that are the same are taken for others")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	said.Reset()
	r.Refresh(log)
	r.Refresh(log)
	if r.keys.Load() != before || strings.Count(said.String(), "stay as they were") != 1 {
		t.Errorf("without the file the ring has %v and said %s", r.Names(), said.String())
	}
	var none *Ring
	none.Refresh(log)
}

// FuzzParse: whatever a file holds, it is refused or means what it says.
func FuzzParse(f *testing.F) {
	f.Add(Text([]Key{key(1), key(2)}))
	f.Add([]byte("#\n\n12345678 00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(Text(keys))
		if err != nil || len(again) != len(keys) || again[0] != keys[0] {
			t.Errorf("%q is %v, which is %v, %v", text, keys, again, err)
		}
	})
}
