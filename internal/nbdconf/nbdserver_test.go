package nbdconf

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The tests here ask nbd-server itself. It is started as inetd does, with a connection on stdin, so that it needs no port and
// nobody waits for one. Each start costs it up to seconds of CPU, for it makes parameters of TLS first.

// serverTimeout ends an nbd-server that hangs.
const serverTimeout = time.Minute

// nbdServer returns the path of nbd-server. The test is skipped where it is missing, or fails where DNBD_REQUIRE=1 says that
// nothing may be missing.
func nbdServer(t *testing.T) string {
	t.Helper()
	// The one in the way may be a link to dnbd.
	for _, name := range []string{"nbd-server", "/usr/bin/nbd-server", "/bin/nbd-server"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if out, _ := exec.Command(path, "-V").CombinedOutput(); bytes.Contains(out, []byte("This is nbd-server")) {
			return path
		}
	}
	if os.Getenv("DNBD_REQUIRE") == "1" {
		t.Fatalf("nbd-server is not installed, and DNBD_REQUIRE=1")
	}
	t.Skip("nbd-server is not installed")
	return ""
}

// session is one nbd-server and our end of its stdin.
type session struct {
	conn net.Conn
	said bytes.Buffer // what it wrote, for when the test fails
}

// connect starts nbd-server with a configuration, which must have port = 0, and returns the connection to it.
func connect(t *testing.T, config string) *session {
	t.Helper()
	path := nbdServer(t)
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := &session{}
	if s.conn, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	theirs, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	stdin, err := theirs.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()

	ctx, cancel := context.WithTimeout(t.Context(), serverTimeout)
	cmd := exec.CommandContext(ctx, path, "-d", "-C", file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &s.said, &s.said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.conn.Close()
		cancel()
		// Killed, if it did not leave with its client.
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("nbd-server said:\n%s", &s.said)
		}
	})
	if err := s.conn.SetDeadline(time.Now().Add(serverTimeout)); err != nil {
		t.Fatal(err)
	}
	return s
}

// The transmission flags that follow from keys (proto.md, transmission flags).
const (
	flagReadOnly   = 1 << 1
	flagFlush      = 1 << 2
	flagFUA        = 1 << 3
	flagRotational = 1 << 4
	flagTrim       = 1 << 5
)

// open asks for an export by EXPORT_NAME and returns its size and flags.
func (s *session) open(name string) (size uint64, flags uint16, err error) {
	var hello [18]byte
	if _, err := io.ReadFull(s.conn, hello[:]); err != nil {
		return 0, 0, fmt.Errorf("it is not there: %w", err)
	}
	ask := binary.BigEndian.AppendUint32(nil, 3) // fixed newstyle, no zeroes
	ask = append(ask, "IHAVEOPT\x00\x00\x00\x01"...)
	ask = binary.BigEndian.AppendUint32(ask, uint32(len(name)))
	if _, err := s.conn.Write(append(ask, name...)); err != nil {
		return 0, 0, err
	}
	var reply [10]byte
	if _, err := io.ReadFull(s.conn, reply[:]); err != nil {
		return 0, 0, fmt.Errorf("it refuses export %q: %w", name, err)
	}
	return binary.BigEndian.Uint64(reply[:]), binary.BigEndian.Uint16(reply[8:]), nil
}

// flags returns what nbd-server announces of an export.
func (x *Export) flags() (flags uint16) {
	for flag, on := range map[uint16]bool{
		flagReadOnly: x.ReadOnly, flagFlush: x.Flush, flagFUA: x.FUA, flagRotational: x.Rotational, flagTrim: x.Trim,
	} {
		if on {
			flags |= flag
		}
	}
	return flags
}

// oracle is where the exports of the tests below are: DIR in their configurations.
const oracle = "DIR"

func TestNBDServerServesWhatIsAccepted(t *testing.T) {
	nbdServer(t)
	for _, c := range []struct {
		name, generic, export string
		size                  uint64
	}{
		{"flags", "", "exportname = DIR/disk\nreadonly = true\nflush = 1\nfua = true \nrotational = true\ntrim = true\nauthfile = DIR/allow", 8192},
		{"false flags", "", "exportname=DIR/disk\nreadonly=false\nflush=0\n\tfua\t=\tfalse\nsdp = false\nfilesize = 4096\ntimeout = 30\n" +
			"maxconnections = 2", 4096},
		{"multifile", "", "exportname = DIR/part\nmultifile = true", 12288},
		{"copy on write", "splice = true", "exportname = DIR/disk\ncopyonwrite = true\ncowdir = DIR\nsparse_cow = true", 8192},
		{"temporary", "", "exportname = DIR/temp\ntemporary = true\nfilesize = 65536", 65536},
		{"string", "", `exportname = DIR/a\sb\\c "quoted" # no comment`, 512},
		{"address", "", "exportname = DIR/100%%-%s\nauthfile = DIR/absent", 1024},
		{"address with slashes", "", "exportname = DIR/by-%s\nvirtstyle = iphash", 2048},
		{"no virtualization", "", "exportname = DIR/100%%\nvirtstyle = none", 1536},
		{"commands", "", "exportname = DIR/made-%s\nprerun = head -c 1536 /dev/zero > %s\npostrun = rm -f %s", 1536},
		{"server's keys", "allowlist = true\nmax_threads = 2\nunixsock = DIR/sock\nduallisten = true\noldstyle = false\n" +
			"tlsprio = NORMAL:-VERS-TLS-ALL:+VERS-TLS1.2:%SERVER_PRECEDENCE\nkeyfile = DIR/key.pem", "exportname = DIR/disk\nsync = true", 8192},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := oracleDir(t)
			text := strings.ReplaceAll("[generic]\nport = 0\nlistenaddr = 127.0.0.1\n"+c.generic+"\n[x]\n"+c.export+"\n", oracle, dir)
			config, _, err := parse(disk{}, file(t, dir, "ours", text))
			if err != nil {
				t.Fatalf("we refuse it: %v", err)
			}
			x := config.Find("x")
			// What we write, from what we read, has to do as well.
			size, flags, err := connect(t, written(t, config)).open("x")
			if err != nil {
				t.Fatal(err)
			}
			if size != c.size {
				t.Errorf("it serves %d bytes, want %d", size, c.size)
			}
			const known = flagReadOnly | flagFlush | flagFUA | flagRotational | flagTrim
			if flags&known != x.flags() {
				t.Errorf("it announces %#x, want %#x", flags&known, x.flags())
			}
			checkPath(t, x, c.size)
		})
	}
}

// oracleDir makes the files that the configurations name.
func oracleDir(t *testing.T) string {
	dir := t.TempDir()
	for name, size := range map[string]int{
		"disk": 8192, "part.0": 8192, "part.1": 4096, `a b\c "quoted" # no comment`: 512, "100%-127.0.0.1": 1024,
		"by-127/0/0/1": 2048, "100%%": 1536,
	} {
		file(t, dir, name, strings.Repeat("\x00", size))
	}
	file(t, dir, "allow", "10.0.0.0/8\n127.0.0.0/8 # this one\n")
	return dir
}

// file makes a file, and its directory, and returns its path.
func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// checkPath compares the file that we would serve to a client of loopback with the size that nbd-server served.
func checkPath(t *testing.T, x *Export, size uint64) {
	t.Helper()
	if x.Temporary || x.FileSize > 0 || x.PreRun != "" {
		return
	}
	client := netip.MustParseAddr("127.0.0.1")
	if !Allowed(x.Allow, client) {
		t.Error("it lets the client in, and we do not")
	}
	path, err := ExpandName(x.Path, x.VirtStyle, client)
	if err != nil {
		t.Fatal(err)
	}
	stat := func(path string) (int64, error) {
		info, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	parts := []Part{{Path: path}}
	if x.MultiFile {
		parts, err = Parts(path, x.FileSize, stat)
	} else {
		parts[0].Size, err = stat(path)
	}
	if err != nil {
		t.Fatal(err)
	}
	if last := parts[len(parts)-1]; uint64(last.Off+last.Size) != size {
		t.Errorf("we would serve %+v, and it serves %d bytes", parts, size)
	}
}

func TestWhatNBDServerRefusesIsRefused(t *testing.T) {
	nbdServer(t)
	for _, text := range []string{
		"[x]\nexportname = DIR/disk\n",
		"[generic]\n[x]\n",
		"[generic]\noldstyle = true\n[x]\nexportname = DIR/disk\n",
		"[generic]\nallowlist = yes\n[x]\nexportname = DIR/disk\n",
		"[generic]\nmax_threads = x\n[x]\nexportname = DIR/disk\n",
		"[generic]\nincludedir = DIR/absent\n[x]\nexportname = DIR/disk\n",
		"[generic]\n[x]\nexportname = DIR/disk\ncopyonwrite = true\nsplice = true\n",
		"[generic]\n[x]\nexportname = DIR/disk\ncopyonwrite = true\nwaitfile = true\n",
		"[generic]\n[x]\nexportname = DIR/disk\nwaitfile = DIR/file\n",
		"[generic]\n[x]\nexportname = DIR/disk\nvirtstyle = cidrhash\n",
		"[generic]\n[x]\nexportname = DIR/disk\nvirtstyle = other\n",
		"[generic]\n[x]\nexportname = DIR/disk\nfilesize = 1k\n",
		"[generic]\n[x]\nexportname = DIR/disk\nfilesize = 0x10\n",
		"[generic]\n[x]\nexportname = DIR/disk\nsdp = true\n",
		"[generic]\n[x]\nexportname = DIR/\\q\n",
		"[generic]\n[x]\nexportname = DIR/disk\nreadonly = True\n",
		"[generic]\n[x] # comment\nexportname = DIR/disk\n",
		"[generic]\n[x]\nexportname\n",
	} {
		text = strings.Replace(text, "[generic]\n", "[generic]\nport = 0\nlistenaddr = 127.0.0.1\n", 1)
		t.Run("", func(t *testing.T) {
			dir := oracleDir(t)
			text := strings.ReplaceAll(text, oracle, dir)
			if c, _, err := parse(disk{}, file(t, dir, "ours", text)); err == nil {
				t.Errorf("we read it as %+v:\n%s", c, text)
			}
			if _, _, err := connect(t, text).open("x"); err == nil {
				t.Errorf("it serves this, so that the test tells nothing:\n%s", text)
			}
		})
	}
}

func TestSectionIsThatOfNBDServer(t *testing.T) {
	path := nbdServer(t)
	for _, line := range []string{
		"2000 /export/blkdev -o s",
		"2000 /export/blkdev -r -o s",
		"2000 /export/blkdev -c -m 10m -o s",
		"::1@2000 /export/%s 10K -l /allow -o s",
		"127.0.0.1:2000 /export/blkdev 4096 --read --copy --output-config=s",
	} {
		args := strings.Fields(line)
		ctx, cancel := context.WithTimeout(t.Context(), serverTimeout)
		defer cancel()
		out, err := exec.CommandContext(ctx, path, append([]string{"-C", os.DevNull}, args...)...).Output()
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		// It writes a line for a key that it ignores, with the text of a null pointer.
		theirs, _, err := parse(memory{"theirs": "[generic]\n" + strings.Replace(string(out), "\tlistenaddr = (null)\n", "", 1)}, "theirs")
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		c, err := ParseArgs(args)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		text, err := c.Export.Section(c.Section)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		ours, _, err := parse(memory{"ours": "[generic]\n" + text}, "ours")
		if err != nil || !reflect.DeepEqual(bare(ours), bare(theirs)) {
			t.Errorf("%s: %v, ours is\n%s\nand theirs\n%s", line, err, text, out)
		}
	}
}

func TestTheInstalledConfigurationIsAccepted(t *testing.T) {
	nbdServer(t)
	if _, err := os.Stat(DefaultFile); err != nil {
		t.Skip("nbd-server is installed without ", DefaultFile)
	}
	if _, err := Parse(DefaultFile); err != nil {
		t.Error(err)
	}
}
