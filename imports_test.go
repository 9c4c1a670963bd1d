package dnbd_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the path of this module.
const module = "github.com/dnbd/dnbd/"

// layer is a set of trees of packages, and why they stand where they do.
type layer struct {
	trees []string
	why   string
}

// layers has every package of the project, the lowest first. A package may import those of lower layers, and those of its own
// tree; tests may import what they like.
var layers = []layer{
	{
		[]string{
			"block", "nbd", "ublk", "internal/wire", "internal/udp", "internal/size", "internal/control", "internal/listen",
			"internal/nbdconf", "internal/flock", "internal/durable", "internal/blake3", "internal/nbdkernel", "internal/boot",
			"internal/querier", "internal/ownroot",
		},
		"it is of use alone, and imports nothing of this project",
	},
	{
		[]string{"image", "internal/cache", "internal/seal"},
		"it is bytes, hashes and files, and knows of no network",
	},
	{
		[]string{"internal/mcast", "internal/layer", "internal/source", "internal/attach", "internal/trust"},
		"it is one part of a client or a server, and knows of neither",
	},
	{
		[]string{"internal/client", "internal/server", "internal/target", "internal/nbdserve"},
		"it is made of parts, and knows of no command",
	},
	{
		[]string{"cmd"},
		"it wires the rest together, and nothing imports it",
	},
	{
		[]string{"internal/sim", "e2e", "bench", "demo"},
		"it watches the program from outside; what is shipped must not depend on it",
	},
}

// find returns the layer of a package, and which of its trees it is in.
func find(pkg string) (rank int, tree string, ok bool) {
	for rank, l := range layers {
		for _, tree := range l.trees {
			if pkg == tree || strings.HasPrefix(pkg, tree+"/") {
				return rank, tree, true
			}
		}
	}
	return 0, "", false
}

// checkImport returns what is wrong with from importing to, both without the module's path.
func checkImport(from, to string) error {
	f, fromTree, ok := find(from)
	if !ok {
		return fmt.Errorf("package %s is in no layer: give it one in imports_test.go", from)
	}
	t, toTree, ok := find(to)
	if !ok {
		return fmt.Errorf("package %s imports %s, which is in no layer: give it one in imports_test.go", from, to)
	}
	// The watchers build on one another.
	if t < f || fromTree == toTree || f == len(layers)-1 {
		return nil
	}
	if f == t {
		return fmt.Errorf("package %s imports %s of its own layer: %s", from, to, layers[f].why)
	}
	return fmt.Errorf("package %s imports %s, which stands above it: %s", from, to, layers[f].why)
}

func TestImportsPointOneWay(t *testing.T) {
	checked := 0
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			hidden := file != "." && strings.HasPrefix(d.Name(), ".")
			if hidden || d.Name() == "testdata" || slices.Contains([]string{"tools", "tmp", "bin"}, file) {
				return fs.SkipDir
			}
			return nil
		}
		if filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		// Read and not built, so that the files for other systems count too.
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if to, ours := strings.CutPrefix(p, module); ours {
				checked++
				if err := checkImport(path.Dir(filepath.ToSlash(file)), to); err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked == 0 {
		t.Error("no import was looked at")
	}
}

func TestImportsThatPointTheWrongWayAreRefused(t *testing.T) {
	for _, c := range []struct {
		from, to string
		refused  bool
	}{
		{"image", "block", false},
		{"internal/mcast", "image", false},
		{"internal/client", "internal/mcast", false},
		{"internal/attach/fuse", "internal/attach", false},
		{"internal/attach/socket", "nbd", false},
		{"cmd/dnbd", "internal/server", false},
		{"bench", "e2e/lab", false},
		{"block", "image", true},
		{"nbd", "block", true},
		{"internal/mcast", "internal/client", true},
		{"internal/client", "internal/server", true},
		{"internal/server", "internal/sim", true},
		{"internal/client", "e2e/lab", true},
		{"internal/target", "cmd/dnbd", true},
		{"image", "util", true},
		{"util", "image", true},
	} {
		if err := checkImport(c.from, c.to); (err != nil) != c.refused {
			t.Errorf("%s imports %s: %v, want it refused: %v", c.from, c.to, err, c.refused)
		}
	}
}
