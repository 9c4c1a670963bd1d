package nbdserve

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/block"
	"github.com/dnbd/dnbd/internal/nbdconf"
	"github.com/dnbd/dnbd/nbd"
)

// dirs holds what a configuration names: DIR in it stands for a directory.
const dirs = "DIR"

// configured reads the exports of a configuration, without [generic], and returns their directory.
func configured(t *testing.T, text string, files map[string]string) (exports []nbd.Export, dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, data := range files {
		write(t, filepath.Join(dir, name), data)
	}
	path := filepath.Join(dir, "config")
	write(t, path, "[generic]\n"+strings.ReplaceAll(text, dirs, dir))
	c, err := nbdconf.Parse(path)
	if err != nil {
		t.Fatal(err)
	}
	return Exports(c.Exports, slog.New(slog.DiscardHandler), os.Stderr), dir
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// client is the address of a client.
func client(ip string) net.Addr {
	if ip == "" {
		return &net.UnixAddr{Net: "unix"}
	}
	return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1234}
}

// opened is a device that a client has, until it leaves.
type opened struct {
	block.Device
	leave func()
}

// open opens an export for a client.
func open(t *testing.T, x nbd.Export, ip string) opened {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	d, release, err := x.Open(ctx, client(ip))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	return opened{d.(block.Device), func() { cancel(); release() }}
}

// refused fails the test unless an export is refused to a client, and returns what it is told.
func refused(t *testing.T, x nbd.Export, ip string) error {
	t.Helper()
	d, release, err := x.Open(t.Context(), client(ip))
	if err == nil {
		release()
		t.Fatalf("opened %v", d)
	}
	return err
}

// text is all that a device holds.
func (o opened) text(t *testing.T) string {
	t.Helper()
	p := make([]byte, o.Size())
	if err := o.ReadAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// put writes at off.
func (o opened) put(t *testing.T, off int64, text string) {
	t.Helper()
	if err := o.Device.(block.Writer).WriteAt(t.Context(), []byte(text), off, false); err != nil {
		t.Fatal(err)
	}
}

func TestClientsAreOfferedWhatTheKeysSay(t *testing.T) {
	const always = block.CanWrite | block.CanZero | block.CanPrefetch | block.CanMap
	for _, c := range []struct {
		keys   string
		want   block.Caps
		shared bool
	}{
		{"", always, true},
		{"flush = true", always | block.CanFlush, true},
		{"trim = true", always | block.CanTrim, true},
		{"flush = true\ntrim = true", always | block.CanTrim | block.CanFlush, true},
		{"flush = true\nsync = true", always | block.CanFlush, true},
		{"readonly = true\nflush = true", block.CanPrefetch | block.CanMap, true},
		{"copyonwrite = true\nflush = true", always | block.CanFlush, false},
		{"temporary = true\nfilesize = 5", always, false},
		{"filesize = 2", always, true},
	} {
		list, _ := configured(t, "[x]\nexportname = DIR/disk\n"+c.keys+"\n", map[string]string{"disk": "bytes"})
		d := open(t, list[0], "")
		if got := block.Has(d.Device); got != c.want || list[0].Shared != c.shared {
			t.Errorf("%q: capabilities %b, shared %v, want %b, %v", c.keys, got, list[0].Shared, c.want, c.shared)
		}
		d.leave()
	}
}

func TestKeysReachTheExport(t *testing.T) {
	list, _ := configured(t, "keyfile = /key\n[a]\nexportname = DIR/a\n[b]\nexportname = DIR/b\nreadonly = true\nrotational = true\nfua = true\n"+
		"force_tls = true\ntimeout = 30\n", nil)
	if a := list[0]; a.Name != "a" || a.ReadOnly || a.Rotational || !a.NoFUA || a.NeedsTLS || a.IdleTimeout != 0 {
		t.Errorf("a is %+v", a)
	}
	if b := list[1]; b.Name != "b" || !b.ReadOnly || !b.Rotational || b.NoFUA || !b.NeedsTLS || b.IdleTimeout.Seconds() != 30 {
		t.Errorf("b is %+v", b)
	}
}

func TestWritesGoToTheFile(t *testing.T) {
	list, dir := configured(t, "[x]\nexportname = DIR/disk\n", map[string]string{"disk": "0123456789"})
	one, two := open(t, list[0], "10.0.0.1"), open(t, list[0], "")
	one.put(t, 3, "abc")
	if got := two.text(t); got != "012abc6789" {
		t.Errorf("another client reads %q", got)
	}
	one.leave()
	two.leave()
	if got := read(t, filepath.Join(dir, "disk")); got != "012abc6789" {
		t.Errorf("the file has %q", got)
	}
}

func TestCopyOnWriteIsEachClientsOwn(t *testing.T) {
	for _, keys := range []string{"", "cowdir = DIR/cow\n", "sparse_cow = true\n"} {
		list, dir := configured(t, "[x]\nexportname = DIR/disk\ncopyonwrite = true\n"+keys, map[string]string{"disk": "0123456789", "cow/x": ""})
		one, two := open(t, list[0], ""), open(t, list[0], "")
		one.put(t, 0, "one")
		two.put(t, 3, "two")
		if a, b := one.text(t), two.text(t); a != "one3456789" || b != "012two6789" {
			t.Errorf("the clients read %q and %q", a, b)
		}
		one.leave()
		two.leave()
		again := open(t, list[0], "")
		if a, b := again.text(t), read(t, filepath.Join(dir, "disk")); a != "0123456789" || b != a {
			t.Errorf("afterwards a client reads %q, and the file has %q", a, b)
		}
		again.leave()
		if left, err := os.ReadDir(filepath.Join(dir, "cow")); err != nil || len(left) != 1 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestMultifileIsOneDevice(t *testing.T) {
	files := map[string]string{"disk.0": "0123", "disk.1": "45", "disk.2": "6789", "disk.4": "x"}
	list, dir := configured(t, "[all]\nexportname = DIR/disk\nmultifile = true\n[some]\nexportname = DIR/disk\nmultifile = true\nfilesize = 5\n"+
		"[more]\nexportname = DIR/disk\nmultifile = true\nfilesize = 11\n[none]\nexportname = DIR/other\nmultifile = true\n", files)
	all, some := open(t, list[0], ""), open(t, list[1], "")
	all.put(t, 3, "abcd")
	if a, b := all.text(t), some.text(t); a != "012abcd789" || b != "012ab" {
		t.Errorf("all reads %q, some %q", a, b)
	}
	all.leave()
	some.leave()
	if a, b, c := read(t, dir+"/disk.0"), read(t, dir+"/disk.1"), read(t, dir+"/disk.2"); a != "012a" || b != "bc" || c != "d789" {
		t.Errorf("the files have %q, %q and %q", a, b, c)
	}
	for _, x := range list[2:] {
		if err := refused(t, x, ""); !errors.Is(err, errNoFile) {
			t.Errorf("%s: %v", x.Name, err)
		}
	}
}

func TestTheAddressNamesTheFile(t *testing.T) {
	list, _ := configured(t, "[plain]\nexportname = DIR/%s\n[hash]\nexportname = DIR/%s\nvirtstyle = iphash\n",
		map[string]string{"10.1.2.3": "plain", "10/1/2/3": "hash", "unix": "unix"})
	for i, want := range []string{"plain", "hash"} {
		d := open(t, list[i], "10.1.2.3")
		if got := d.text(t); got != want {
			t.Errorf("%s: %q, want %q", list[i].Name, got, want)
		}
		d.leave()
		d = open(t, list[i], "")
		if got := d.text(t); got != "unix" {
			t.Errorf("%s by unix socket: %q", list[i].Name, got)
		}
		d.leave()
		if err := refused(t, list[i], "10.1.2.4"); !errors.Is(err, errNoFile) {
			t.Errorf("a client without a file hears %v", err)
		}
	}
}

func TestTheAuthfileIsReadForEachClient(t *testing.T) {
	list, dir := configured(t, "[x]\nexportname = DIR/disk\nauthfile = DIR/allow\n", map[string]string{"disk": "x"})
	open(t, list[0], "10.0.0.1").leave() // no file: everybody
	write(t, dir+"/allow", "192.168.0.0/16\n")
	for _, ip := range []string{"10.0.0.1", "::1", ""} {
		if err := refused(t, list[0], ip); !errors.Is(err, nbd.ErrRefused) {
			t.Errorf("%q hears %v", ip, err)
		}
	}
	open(t, list[0], "192.168.1.1").leave()
	open(t, list[0], "::ffff:192.168.1.1").leave()
	write(t, dir+"/allow", "nonsense\n")
	if err := refused(t, list[0], "192.168.1.1"); !errors.Is(err, nbd.ErrRefused) {
		t.Errorf("with a broken file it hears %v", err)
	}
}

func TestMaxconnectionsAreCounted(t *testing.T) {
	list, _ := configured(t, "[x]\nexportname = DIR/disk\nmaxconnections = 2\n", map[string]string{"disk": "x"})
	one, two := open(t, list[0], ""), open(t, list[0], "")
	if err := refused(t, list[0], ""); !errors.Is(err, nbd.ErrRefused) || !strings.Contains(err.Error(), "limited to 2") {
		t.Errorf("the third hears %v", err)
	}
	one.leave()
	open(t, list[0], "").leave()
	two.leave()
}

func TestCommandsRunAroundAClient(t *testing.T) {
	list, dir := configured(t, "[made]\nexportname = DIR/made-%s\nprerun = printf abc >%s\npostrun = mv %s %s.gone\n"+
		"[refused]\nexportname = DIR/disk\nprerun = exit 3\npostrun = touch DIR/ran\n"+
		"[missing]\nexportname = DIR/missing\nprerun = true\npostrun = touch %s.after\n", map[string]string{"disk": "x"})
	d := open(t, list[0], "10.0.0.1")
	if got := d.text(t); got != "abc" {
		t.Errorf("it reads %q", got)
	}
	d.leave()
	if got := read(t, dir+"/made-10.0.0.1.gone"); got != "abc" {
		t.Errorf("it left %q", got)
	}
	if err := refused(t, list[1], ""); !errors.Is(err, nbd.ErrRefused) {
		t.Errorf("after prerun failed a client hears %v", err)
	}
	if _, err := os.Stat(dir + "/ran"); err == nil {
		t.Error("postrun ran without prerun")
	}
	if err := refused(t, list[2], ""); !errors.Is(err, errNoFile) {
		t.Errorf("a client without a file hears %v", err)
	}
	read(t, dir+"/missing.after")
}

func TestACommandEndsWithTheConnection(t *testing.T) {
	list, _ := configured(t, "[x]\nexportname = DIR/disk\nprerun = exec sleep 1000\n", map[string]string{"disk": "x"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := list[0].Open(ctx, client("")); err == nil {
		t.Error("opened")
	}
}

func TestATemporaryExportIsEachClientsOwn(t *testing.T) {
	list, dir := configured(t, "[x]\nexportname = DIR/sub/name\ntemporary = true\nfilesize = 6\n", map[string]string{"sub/x": ""})
	one, two := open(t, list[0], ""), open(t, list[0], "")
	one.put(t, 0, "abc")
	if a, b := one.text(t), two.text(t); a != "abc\x00\x00\x00" || b != strings.Repeat("\x00", 6) {
		t.Errorf("the clients read %q and %q", a, b)
	}
	one.leave()
	two.leave()
	if left, err := os.ReadDir(dir + "/sub"); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestFilesizeCutsAndMakes(t *testing.T) {
	list, dir := configured(t, "[cut]\nexportname = DIR/disk\nfilesize = 3\n[made]\nexportname = DIR/new\nfilesize = 70000\n"+
		"[grown]\nexportname = DIR/nothing\nfilesize = 9\n"+
		"[more]\nexportname = DIR/disk\nfilesize = 11\n[absent]\nexportname = DIR/absent\nfilesize = 5\nreadonly = true\n"+
		"[empty]\nexportname = DIR/empty\nfilesize = 5\nreadonly = true\n", map[string]string{"disk": "0123456789", "nothing": "", "empty": ""})
	d := open(t, list[0], "")
	if got := d.text(t); got != "012" {
		t.Errorf("cut reads %q", got)
	}
	d.leave()
	d = open(t, list[1], "")
	if d.Size() != 70000 {
		t.Errorf("made is %d bytes long", d.Size())
	}
	d.put(t, 69999, "x")
	d.leave()
	if got := read(t, dir+"/new"); got != string(append(bytes.Repeat([]byte{0}, 69999), 'x')) {
		t.Error("the file that was made has not what was written")
	}
	d = open(t, list[2], "")
	if d.Size() != 9 {
		t.Errorf("grown is %d bytes long", d.Size())
	}
	d.leave()
	for _, x := range list[3:] {
		if err := refused(t, x, ""); !errors.Is(err, errNoFile) {
			t.Errorf("%s: %v", x.Name, err)
		}
	}
}
