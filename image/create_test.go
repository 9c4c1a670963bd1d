package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRevisionsCountTheContentsOfAName(t *testing.T) {
	path := writeImage(t, randomBytes(5000, 1))
	check := func(what string, o CreateOptions, name string, revision uint64) *Image {
		t.Helper()
		d := mustCreate(t, path, o).Descriptor()
		if d.Name != name || d.Revision != revision {
			t.Errorf("%s: %s revision %d, want %s revision %d", what, d.Name, d.Revision, name, revision)
		}
		return mustOpen(t, path)
	}
	check("a new image", CreateOptions{}, "disk", 1)
	check("the same content", CreateOptions{}, "disk", 1)
	overwrite(t, path, randomBytes(5000, 2))
	check("another content", CreateOptions{}, "disk", 2)
	overwrite(t, path, randomBytes(6000, 3))
	check("another size", CreateOptions{}, "disk", 3)
	check("another block size", CreateOptions{BlockSize: 4096}, "disk", 4)
	if got := check("no block size given", CreateOptions{}, "disk", 4).Geometry().BlockSize(); got != 4096 {
		t.Errorf("the block size went from 4096 to %d", got)
	}
	check("another name", CreateOptions{Name: "film"}, "film", 1)
	check("no name given", CreateOptions{}, "film", 1)
	check("a revision given", CreateOptions{Revision: 7}, "film", 7)
	check("the same content with that revision", CreateOptions{}, "film", 7)
}

func TestAnUnchangedImageKeepsItsDate(t *testing.T) {
	path := writeImage(t, randomBytes(5000, 1))
	m := mustCreate(t, path, CreateOptions{})
	old := m.sidecar
	old.Descriptor.Created = time.Unix(1_000_000_000, 0).UTC()
	if err := WriteSidecar(SidecarPath(path), &old, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := mustCreate(t, path, CreateOptions{}).Descriptor().Created; !got.Equal(old.Descriptor.Created) {
		t.Errorf("created %v, want %v", got, old.Descriptor.Created)
	}
	if got := mustCreate(t, path, CreateOptions{Revision: 2}).Descriptor().Created; got.Equal(old.Descriptor.Created) {
		t.Errorf("a new revision is from %v", got)
	}
}

func TestANameIsMadeOfTheFiles(t *testing.T) {
	for path, want := range map[string]string{
		"/srv/debian-12.img":             "debian-12",
		"debian-12.4":                    "debian-12.4",
		"film.mkv":                       "film",
		"a b.iso":                        "a-b",
		".hidden":                        "hidden",
		"/dev/loop0":                     "loop0",
		"größe.img":                      "gr--e",
		"...":                            "image",
		"\xff.img":                       "image",
		strings.Repeat("a", 200):         strings.Repeat("a", MaxNameLen),
		strings.Repeat("0f", 32) + ".im": "image",
	} {
		got := NameOf(path)
		if got != want {
			t.Errorf("NameOf(%q) = %q, want %q", path, got, want)
		}
		if err := checkName(got); err != nil {
			t.Errorf("NameOf(%q): %v", path, err)
		}
	}
}

func TestOpenOrCreateHashesOnlyWhatItMust(t *testing.T) {
	path := writeImage(t, randomBytes(300_000, 1))
	check := func(what string, o CreateOptions, wantHashed bool, name string, revision uint64) {
		t.Helper()
		hashed := false
		o.Progress = func(int64, int64) { hashed = true }
		m, err := OpenOrCreate(t.Context(), path, o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer m.Close()
		if hashed != wantHashed {
			t.Errorf("%s: hashed is %v", what, hashed)
		}
		if d := m.Descriptor(); d.Name != name || d.Revision != revision {
			t.Errorf("%s: %s revision %d, want %s revision %d", what, d.Name, d.Revision, name, revision)
		}
		if d := mustOpen(t, path).Descriptor(); d != m.Descriptor() {
			t.Errorf("%s: the sidecar says %+v, the image %+v", what, d, m.Descriptor())
		}
	}
	check("no sidecar", CreateOptions{}, true, "disk", 1)
	check("a fresh sidecar", CreateOptions{}, false, "disk", 1)
	check("a new name", CreateOptions{Name: "film"}, false, "film", 1)
	check("a new revision", CreateOptions{Revision: 5}, false, "film", 5)
	check("the same block size", CreateOptions{BlockSize: DefaultBlockSize}, false, "film", 5)
	check("another block size", CreateOptions{BlockSize: 4096}, true, "film", 6)
	touch(t, path, time.Unix(1_800_000_000, 0))
	check("a touched file", CreateOptions{}, true, "film", 6)
	overwrite(t, path, randomBytes(300_001, 1))
	check("another size", CreateOptions{}, true, "film", 7)
	if err := os.Truncate(SidecarPath(path), 200); err != nil {
		t.Fatal(err)
	}
	check("a truncated sidecar", CreateOptions{}, true, "disk", 1)
}

func TestAWrongLabelIsRefusedBeforeTheWork(t *testing.T) {
	path := writeImage(t, randomBytes(5000, 1))
	for what, c := range map[string]struct {
		o    CreateOptions
		want error
	}{
		"name":       {CreateOptions{Name: "a/b"}, ErrName},
		"block size": {CreateOptions{BlockSize: 5000}, ErrBlockSize},
	} {
		c.o.Progress = func(int64, int64) { t.Errorf("%s: it hashes", what) }
		if _, err := Create(t.Context(), path, c.o); !errors.Is(err, c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %v and the path", what, err, c.want)
		}
	}
	mustCreate(t, path, CreateOptions{})
	if _, err := OpenOrCreate(t.Context(), path, CreateOptions{Name: "a/b"}); !errors.Is(err, ErrName) {
		t.Errorf("OpenOrCreate = %v, want ErrName", err)
	}
}

func TestAForeignFileInTheSidecarsPlaceIsNotOverwritten(t *testing.T) {
	path := writeImage(t, randomBytes(5000, 1))
	newer := encode(t, small(t))
	newer[11] = 9
	for _, content := range []string{"my notes", string(newer)} {
		if err := os.WriteFile(SidecarPath(path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for what, create := range map[string]func(context.Context, string, CreateOptions) (*Image, error){
			"Create": Create, "OpenOrCreate": OpenOrCreate,
		} {
			if _, err := create(t.Context(), path, CreateOptions{}); err == nil || !strings.Contains(err.Error(), "move it away") {
				t.Errorf("%s over %.8q = %v, want a refusal", what, content, err)
			}
		}
		if got, err := os.ReadFile(SidecarPath(path)); err != nil || string(got) != content {
			t.Errorf("%.8q became %.8q (%v)", content, got, err)
		}
	}
}

func TestAnImageWhoseSidecarCannotBeWrittenCanBeUsed(t *testing.T) {
	path := writeImage(t, randomBytes(5000, 1))
	if err := os.Mkdir(SidecarPath(path), 0o700); err != nil {
		t.Fatal(err)
	}
	m, err := Create(t.Context(), path, CreateOptions{})
	if !errors.Is(err, ErrSidecarNotWritten) || !strings.Contains(err.Error(), SidecarPath(path)) {
		t.Fatalf("Create = %v, want ErrSidecarNotWritten and the sidecar's path", err)
	}
	defer m.Close()
	if n, err := m.ReadBlock(0, make([]byte, DefaultBlockSize)); n != 5000 || err != nil {
		t.Errorf("ReadBlock = %d, %v", n, err)
	}
	mustHoldOnly(t, filepath.Dir(path), "disk.img", "disk.img.dnbd")
}

func TestAFileThatChangesWhileItIsHashedIsNoticed(t *testing.T) {
	for what, change := range map[string]func(path string) error{
		"written to": func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1_800_000_000, 0)) },
		"grown":      func(path string) error { return os.Truncate(path, 65<<20) },
		"cut short":  func(path string) error { return os.Truncate(path, 1) },
	} {
		path := writeImage(t, nil)
		if err := os.Truncate(path, 64<<20); err != nil {
			t.Fatal(err)
		}
		m, err := Create(t.Context(), path, CreateOptions{Progress: func(int64, int64) {
			if err := change(path); err != nil {
				t.Error(err)
			}
		}})
		if m != nil || !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), path) {
			t.Errorf("a file %s: %v, want ErrChanged and the path", what, err)
		}
		mustHoldOnly(t, filepath.Dir(path), "disk.img")
	}
}

func TestACancelledCreateLeavesNothing(t *testing.T) {
	path := writeImage(t, nil)
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Create(ctx, path, CreateOptions{Progress: func(int64, int64) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Errorf("Create = %v, want context.Canceled", err)
	}
	mustHoldOnly(t, filepath.Dir(path), "disk.img")
}
