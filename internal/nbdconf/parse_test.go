package nbdconf

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// memory is a source of files that are in memory.
type memory map[string]string

func (m memory) read(path string) ([]byte, error) {
	if text, ok := m[path]; ok {
		return []byte(text), nil
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

func (m memory) list(dir string) (files []string, err error) {
	for file := range m {
		if path.Dir(file) == dir {
			files = append(files, file)
		}
	}
	if files == nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: fs.ErrNotExist}
	}
	slices.Sort(files)
	return files, nil
}

// written returns the configuration as a file.
func written(t *testing.T, c *Config) string {
	t.Helper()
	var b bytes.Buffer
	n, err := c.WriteTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) {
		t.Errorf("WriteTo wrote %d bytes and says %d", b.Len(), n)
	}
	return b.String()
}

// bare returns the configuration without what is not written: places, and the directory whose files are in it.
func bare(c *Config) *Config {
	flat := *c
	flat.IncludeDir = ""
	flat.Exports = nil
	for _, x := range c.Exports {
		y := *x
		y.Pos = Pos{}
		flat.Exports = append(flat.Exports, &y)
	}
	return &flat
}

// TestParseGolden reads the configurations of testdata and compares what they mean, or what is wrong with them.
func TestParseGolden(t *testing.T) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			src, want := memory{}, (*txtar.File)(nil)
			for i, f := range archive.Files {
				if f.Name == "want" {
					want = &archive.Files[i]
					continue
				}
				src[f.Name] = string(f.Data)
			}
			got := outcome(t, src)
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got != string(want.Data) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want.Data)
			}
		})
	}
}

// outcome returns the configuration written out, or the errors.
func outcome(t *testing.T, src memory) string {
	c, _, err := parse(src, DefaultFile)
	if err != nil {
		return err.Error() + "\n"
	}
	text := written(t, c)
	again, _, err := parse(memory{"again": text, "/allow": src["/allow"], "/etc/nbd-server/allow": src["/etc/nbd-server/allow"]}, "again")
	if err != nil {
		t.Fatalf("what was written is refused: %v\n%s", err, text)
	}
	for i := range c.Exports {
		// Where there is no authfile in the source there is none in the second one.
		if again.Exports[i].Allow == nil || c.Exports[i].Allow == nil {
			again.Exports[i].Allow = c.Exports[i].Allow
		}
	}
	if !reflect.DeepEqual(bare(c), bare(again)) {
		t.Errorf("what was written means something else:\n%s", text)
	}
	return text
}

func TestEveryHonouredKeyIsReadAndWritten(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/every-key.txtar")
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, f := range archive.Files {
		if f.Name == "want" {
			text = string(f.Data)
		}
	}
	for _, k := range keys {
		// The exports of included files are written, their directory is not.
		if k.Refused == "" && k.Name != "includedir" && !strings.Contains(text, "\t"+k.Name+" = ") {
			t.Errorf("every-key.txtar has no %s", k.Name)
		}
	}
}

func TestErrorsSayWhereAndCanBeTakenApart(t *testing.T) {
	_, err := Parse(filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file is %v", err)
	}
	_, _, err = parse(memory{"/c": "[generic]\nport = x y\n[e]\n"}, "/c")
	var errs Errors
	if !errors.As(err, &errs) || len(errs) != 2 {
		t.Fatalf("got %v, want two errors", err)
	}
	if e := errs[0]; e.Pos != (Pos{"/c", 2}) || e.Section != "generic" || e.Key != "port" {
		t.Errorf("the first is %+v", e)
	}
	if e := errs[1]; e.Pos.String() != "/c:3" || e.Section != "e" {
		t.Errorf("the second is %+v", e)
	}
}

func TestDefaultsAreThoseOfTheManual(t *testing.T) {
	c, x := NewConfig(), NewExport("x")
	if c.Port != DefaultPort || c.MaxThreads != 4 || c.TLS.Min == 0 || c.AllowList || c.Listen != nil {
		t.Errorf("the defaults of [generic] are %+v", c)
	}
	if !reflect.DeepEqual(x, &Export{Name: "x"}) {
		t.Errorf("the defaults of an export are %+v", x)
	}
}

func TestParseReadsFilesOfTheDisk(t *testing.T) {
	dir := filepath.ToSlash(t.TempDir())
	file := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "dir.conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	file("config", "[generic]\nincludedir = "+dir+"\n")
	file("b.conf", "[b]\nexportname = /b\nauthfile = "+dir+"/allow\n")
	file("a.conf", "[a]\nexportname = /a\n")
	file("allow", "192.0.2.0/24\n")
	c, err := Parse(filepath.Join(dir, "config"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Exports) != 2 || c.Exports[0].Name != "a" || c.Find("b") != c.Exports[1] || c.Find("c") != nil {
		t.Fatalf("the exports are %+v", c.Exports)
	}
	if list := c.Find("b").Allow; !Allowed(list, netip.MustParseAddr("192.0.2.7")) || Allowed(list, netip.MustParseAddr("192.0.3.7")) {
		t.Errorf("the authfile was read as %v", list)
	}
	if got := c.Find("b").Pos; got.Line != 1 || filepath.Base(got.File) != "b.conf" {
		t.Errorf("b is at %v", got)
	}
	file("config", strings.Repeat("#", maxFile+1))
	if _, err := Parse(filepath.Join(dir, "config")); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("a file too large is %v", err)
	}
}

// TestSyntaxIsGLibs has what GLib 2.74 makes of a line, taken from GLib itself.
func TestSyntaxIsGLibs(t *testing.T) {
	for _, c := range []struct {
		text string
		want string // the value of k in [a], or what the error has
		bad  bool
	}{
		{"[a]\nk=v\n", "v", false},
		{"[a]\nk = v  \n", "v  ", false},
		{"[a]\nk=\\sv\\n\\t\\r\\\\x\n", " v\n\t\r\\x", false},
		{"[a]\nk=\"q\"\n", `"q"`, false},
		{"  [a]  \nk=v", "v", false},
		{"[a]\nk=v # c\n", "v # c", false},
		{"[a]\r\nk=v\r\n", "v", false},
		{"\n#x\n\n[a]\n\t# y\n\tk\t=\tv\n", "v", false},
		{"[a]\nk=a=b", "a=b", false},
		{"[a]\nk=a;b", "a;b", false},
		{"[a]\nk=", "", false},
		{"[a]\nk=\\q\n", `unknown escape \q`, true},
		{"[a]\nk=ab\\\n", "single backslash", true},
		{"[a]\nk=a\\;b\n", `unknown escape \;`, true},
		{"[a]x\nk=v", "section's name", true},
		{"[a] # c\nk=v", "section's name", true},
		{"[]\nk=v\n", "section's name", true},
		{"[a]b]\nk=v", "section's name", true},
		{"[a\nk=v", "section's name", true},
		{"[a\tb]\nk=v", "section's name", true},
		{"[a]\nnovalue\n", "neither", true},
		{"k=v\n", "before the first section", true},
		{"[a]\n=v\n", "no key", true},
		{"[a]\nk=\xff\n", "UTF-8", true},
		{"\xef\xbb\xbf[a]\nk=v\n", "neither", true},
		// GLib drops what is behind a NUL.
		{"[a]\nk=a\x00b\n", "NUL", true},
	} {
		sections, errs := parseKeyFile("f", []byte(c.text))
		if c.bad {
			err := errs.errorOrUnescape(sections)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: got %v, want an error with %q", c.text, err, c.want)
			}
			continue
		}
		if len(errs) > 0 || len(sections) != 1 || sections[0].name != "a" || len(sections[0].entries) != 1 {
			t.Errorf("%q: got %+v, %v", c.text, sections, errs)
			continue
		}
		if got, err := unescape(sections[0].entries[0].value); err != nil || got != c.want || sections[0].entries[0].key != "k" {
			t.Errorf("%q: got %q, %v, want %q", c.text, got, err, c.want)
		}
	}
}

// errorOrUnescape returns the first error of the lines, or else that of the first value.
func (e Errors) errorOrUnescape(sections []section) error {
	if len(e) > 0 {
		return e[0]
	}
	_, err := unescape(sections[0].entries[0].value)
	return err
}

func TestValuesAreGLibs(t *testing.T) {
	for _, c := range []struct {
		key, value string
		ok         bool
	}{
		{"readonly", "true", true},
		{"readonly", "1", true},
		{"readonly", "false  ", true},
		{"readonly", "0", true},
		{"readonly", "yes", false},
		{"readonly", "True", false},
		{"readonly", "true x", false},
		{"readonly", "", false},
		{"timeout", "1", true},
		{"timeout", "+1", true},
		{"timeout", "010", true},
		{"timeout", "1 ", true},
		{"timeout", "0x10", false},
		{"timeout", "1.5", false},
		{"timeout", "1x", false},
		{"timeout", "", false},
		{"timeout", "-1", false},
		{"timeout", "2147483648", false},
		{"filesize", "9223372036854775807", true},
		{"filesize", "9223372036854775808", false},
		{"filesize", "-1", false},
	} {
		x := NewExport("x")
		if err := lookup(PerExport, c.key).set(nil, x, c.value); (err == nil) != c.ok {
			t.Errorf("%s = %q: %v", c.key, c.value, err)
		}
	}
}
