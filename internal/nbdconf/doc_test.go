package nbdconf

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files and the table of doc.go anew")

// keyTable is the table of keys as doc.go has it.
func keyTable() string {
	var b strings.Builder
	section := Section("")
	for _, k := range Keys() {
		if k.Section != section {
			section = k.Section
			fmt.Fprintf(&b, "//\n// Section [%s]:\n//\n", section)
		}
		does := k.Does
		if k.Default != "" && len(k.Default) < 20 {
			does += "; default " + k.Default
		}
		if k.Flag != "" {
			does += "; " + k.Flag
		}
		fmt.Fprintf(&b, "//\t%-14s  %-7s  %s\n", k.Name, k.Type, does)
		if k.Refused != "" {
			fmt.Fprintf(&b, "//\t%-14s  %-7s  refused: %s\n", "", "", k.Refused)
		}
	}
	return b.String()
}

func TestDocHasTheTableOfKeys(t *testing.T) {
	const file, begin, end = "doc.go", "//\n// Section [generic]", "package nbdconf"
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	from, to := strings.Index(string(raw), begin), strings.LastIndex(string(raw), end)
	if from < 0 || to < from {
		t.Fatalf("%s has no table", file)
	}
	if *update {
		if err := os.WriteFile(file, []byte(string(raw[:from])+keyTable()+string(raw[to:])), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got := string(raw[from:to]); got != keyTable() {
		t.Errorf("%s has another table than Keys; run go test -run %s -update", file, t.Name())
	}
}

// The keys that nbd-server(5) of 3.24, 3.26.1 and 3.27.1 documents, and the two that the program knows or knew beside.
const documentedGeneric = `allowlist cacertfile certfile duallisten force_tls group includedir keyfile listenaddr max_threads
	oldstyle port splice tlsprio unixsock user`

const documentedExport = `authfile copyonwrite cowdir exportname filesize flush force_tls fua listenaddr maxconnections multifile
	postrun prerun readonly rotational sdp sparse_cow sync temporary timeout tlsonly transactionlog treefiles trim virtstyle waitfile
	datalog autoreadonly`

func TestEveryDocumentedKeyIsHonouredOrRefusedWithAReason(t *testing.T) {
	for in, names := range map[Section]string{Generic: documentedGeneric, PerExport: documentedExport} {
		for _, name := range strings.Fields(names) {
			k := lookup(in, name)
			if k == nil {
				t.Errorf("[%s] %s is unknown", in, name)
			} else if (k.field == nil) != (k.Refused != "") || k.Does == "" {
				t.Errorf("[%s] %s has neither a field nor a reason, or both, or says nothing", in, name)
			}
		}
	}
}

func TestKeysAreSortedAndDoNotAlias(t *testing.T) {
	all := Keys()
	if !slices.IsSortedFunc(all, func(a, b Key) int {
		if a.Section != b.Section {
			return -strings.Compare(string(a.Section), string(b.Section))
		}
		return strings.Compare(a.Name, b.Name)
	}) {
		t.Error("the table is not sorted by section and name")
	}
	all[0].Name = "changed"
	if Keys()[0].Name == "changed" {
		t.Error("Keys returns the table itself")
	}
	for _, k := range Keys() {
		if len(k.Name) > maxKey {
			t.Errorf("%s is longer than maxKey", k.Name)
		}
	}
}
