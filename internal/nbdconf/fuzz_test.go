package nbdconf

import (
	"bytes"
	"errors"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzParse reads configurations: nothing panics, what is wrong has a place, and what is right is the same when it was
// written and read again.
func FuzzParse(f *testing.F) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		var parts [3][]byte // configuration, included file, authfile
		for _, file := range archive.Files {
			switch {
			case file.Name == DefaultFile:
				parts[0] = file.Data
			case strings.HasSuffix(file.Name, ".conf"):
				parts[1] = file.Data
			case strings.HasSuffix(file.Name, "allow"):
				parts[2] = file.Data
			}
		}
		f.Add(parts[0], parts[1], parts[2])
	}
	f.Fuzz(func(t *testing.T, main, included, allow []byte) {
		src := memory{"/config": string(main), "/conf.d/a.conf": string(included), "/allow": string(allow)}
		c, _, err := parse(src, "/config")
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 || c != nil {
				t.Fatalf("the error is %#v, with %v", err, c)
			}
			for _, e := range errs {
				if e.Pos.File == "" || e.Err == nil || e.Error() == "" {
					t.Fatalf("an error without a place or a reason: %#v", e)
				}
			}
			return
		}
		var text bytes.Buffer
		if _, err := c.WriteTo(&text); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		src["/config"] = text.String()
		again, _, err := parse(src, "/config")
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, &text)
		}
		if !reflect.DeepEqual(bare(c), bare(again)) {
			t.Fatalf("what was written means something else:\n%s", &text)
		}
	})
}

// FuzzParseArgs reads command lines, with NUL between arguments: nothing panics, and the section of -o means the same.
func FuzzParseArgs(f *testing.F) {
	for _, args := range []string{
		"2000 /f -r", "::1@0 /srv/%s 10M -rmc -o name -l /allow -M 3", "-V", "--config-file=/c --dont-fork -- 1 /x", "-C",
		"127.0.0.1:10809 /f 1k --output-config x", "nbd /f", "--co", "-p/pid -h",
	} {
		f.Add(strings.ReplaceAll(args, " ", "\x00"))
	}
	f.Fuzz(func(t *testing.T, joined string) {
		c, err := ParseArgs(strings.Split(joined, "\x00"))
		if err != nil {
			return
		}
		if c.Port < 0 || c.Port > 65535 || c.ConfigFile == "" {
			t.Fatalf("%q is %+v", joined, c)
		}
		if c.Export == nil || c.Section == "" {
			return
		}
		text, err := c.Export.Section(c.Section)
		if err != nil {
			t.Fatalf("%q has a section that cannot be written: %v", joined, err)
		}
		config, _, err := parse(memory{"/config": "[generic]\n" + text}, "/config")
		if err != nil {
			t.Fatalf("%q has a section that is refused: %v\n%s", joined, err, text)
		}
		config.Exports[0].Name, config.Exports[0].Pos = "", Pos{}
		if !reflect.DeepEqual(config.Exports[0], c.Export) {
			t.Fatalf("%q has a section that means something else:\n%s", joined, text)
		}
	})
}
