package trust

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/dnbd/dnbd/image"
)

func newKey(t testing.TB) (minisign.PublicKey, minisign.PrivateKey) {
	t.Helper()
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

// file is a file of revisions that is not there yet.
func file(t testing.TB) Revisions {
	return Revisions(filepath.Join(t.TempDir(), "state", "revisions"))
}

func newPolicy(t testing.TB, known Revisions, keys ...minisign.PublicKey) *Policy {
	t.Helper()
	p, err := New(known, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// revision is a signed image.
func revision(n uint64, key minisign.PrivateKey) (image.Descriptor, []byte) {
	d := image.Descriptor{
		Name: "disk", Revision: n, Created: time.Unix(1_700_000_000, 0), Size: 1 << 30, BlockSize: 64 << 10, Root: image.Hash{byte(n)},
	}
	return d, d.Sign(key, d.Created)
}

func mustBe(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestOnlyWhatATrustedKeySignedIsUsed(t *testing.T) {
	public, private := newKey(t)
	_, stranger := newKey(t)
	p := newPolicy(t, file(t), public)
	for range 2 { // the second time out of memory
		d, s := revision(1, private)
		mustBe(t, "signed", p.Check(d, s), nil)
		mustBe(t, "unsigned", p.Check(d, nil), image.ErrUnsigned)
		_, s2 := revision(2, private)
		mustBe(t, "another's signature", p.Check(d, s2), image.ErrSignature)
		d, s = revision(1, stranger)
		mustBe(t, "signed by a stranger", p.Check(d, s), image.ErrSigner)
		mustBe(t, "used all the same", p.Use(d, s), image.ErrSigner)
	}
	if _, err := New(file(t)); err == nil {
		t.Error("a policy without a key")
	}
}

func TestNothingOlderIsUsedThanWhatWasUsedBefore(t *testing.T) {
	public, private := newKey(t)
	known := file(t)
	use := func(n uint64, set func(*Policy)) error {
		p := newPolicy(t, known, public)
		if set != nil {
			set(p)
		}
		d, s := revision(n, private)
		err := p.Check(d, s)
		if useErr := p.Use(d, s); (err == nil) != (useErr == nil) {
			t.Errorf("revision %d: Check says %v, Use %v", n, err, useErr)
		}
		return err
	}
	pinned, back := func(p *Policy) { p.Pinned = true }, func(p *Policy) { p.AllowRollback = true }
	mustBe(t, "3 at first", use(3, nil), nil)
	mustBe(t, "3 again", use(3, nil), nil)
	mustBe(t, "2", use(2, nil), ErrRollback)
	mustBe(t, "2, named", use(2, pinned), nil)
	mustBe(t, "5", use(5, nil), nil)
	mustBe(t, "9, named", use(9, pinned), nil)
	mustBe(t, "5, which what was named has not changed", use(5, nil), nil)
	mustBe(t, "4", use(4, nil), ErrRollback)
	mustBe(t, "4, allowed", use(4, back), nil)
	mustBe(t, "4, now known", use(4, nil), nil)
	mustBe(t, "3", use(3, nil), ErrRollback)
}

func TestAnOldKeyCannotBringBackWhatANewOneReplaced(t *testing.T) {
	oldPublic, oldPrivate := newKey(t)
	newPublic, newPrivate := newKey(t)
	known := file(t)
	d, s := revision(5, oldPrivate)
	mustBe(t, "5 by the old key", newPolicy(t, known, oldPublic).Use(d, s), nil)
	d6, s6 := revision(6, newPrivate)
	mustBe(t, "6 by the new key", newPolicy(t, known, oldPublic, newPublic).Use(d6, s6), nil)
	mustBe(t, "5 by the old key", newPolicy(t, known, oldPublic, newPublic).Use(d, s), ErrRollback)

	// Another publisher's image may have the same name.
	third, private := newKey(t)
	d, s = revision(1, private)
	mustBe(t, "1 by another publisher", newPolicy(t, known, third).Use(d, s), nil)
}

func TestADamagedFileIsSaidAndNotForgotten(t *testing.T) {
	public, private := newKey(t)
	known := file(t)
	d, s := revision(3, private)
	mustBe(t, "use", newPolicy(t, known, public).Use(d, s), nil)
	text, err := os.ReadFile(string(known))
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(text) {
		damaged := append([]byte(nil), text...)
		damaged[i] ^= 1
		if _, err := parseRevisions(damaged); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := parseRevisions(text[:i]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut off at %d: %v", i, err)
		}
	}
	for _, bad := range [][]byte{nil, append(text, '\n'), make([]byte, maxRevisions+1)} {
		if err := os.WriteFile(string(known), bad, 0o644); err != nil {
			t.Fatal(err)
		}
		mustBe(t, "Check", newPolicy(t, known, public).Check(d, s), ErrDamaged)
		mustBe(t, "Use", newPolicy(t, known, public).Use(d, s), ErrDamaged)
	}
}

func TestProcessesThatRememberAtOnceForgetNothing(t *testing.T) {
	public, private := newKey(t)
	known := file(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			d, _ := revision(uint64(i+1), private)
			d.Name += strconv.Itoa(i)
			if err := newPolicy(t, known, public).Use(d, d.Sign(private, d.Created)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	k, err := known.load()
	if err != nil || len(k) != 20 {
		t.Errorf("%d of 20 names are known; %v", len(k), err)
	}
}

// killedFile tells this test binary that it is the one to be killed, and names its file.
const killedFile = "DNBD_TEST_KILLED_REVISIONS"

// TestAKilledProcessForgetsNothing runs itself again as a process that uses one revision after the other and says so, kills it with
// SIGKILL, and looks at what is known, many times over.
func TestAKilledProcessForgetsNothing(t *testing.T) {
	public, private := newKey(t)
	if path := os.Getenv(killedFile); path != "" {
		known := Revisions(path)
		for {
			k, err := known.load()
			if err != nil {
				t.Fatal(err)
			}
			var n uint64
			for _, v := range k {
				n = max(n, v)
			}
			if d, s := revision(n+1, private); newPolicy(t, known, public).Use(d, s) != nil {
				t.Fatal("use")
			}
			fmt.Println(n + 1)
		}
	}
	known := file(t)
	var told uint64
	for round := range 12 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), killedFile+"="+string(known))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + round*7 {
			if !lines.Scan() {
				t.Fatal("it ended by itself")
			}
			if told, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			if n, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
				told = n
			}
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("not killed: %v", err)
		}
		k, err := known.load()
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		var n uint64
		for _, v := range k {
			n = max(n, v)
		}
		if n < told {
			t.Errorf("round %d: %d is known, and %d was used", round, n, told)
		}
	}
	t.Logf("12 kills, %d revisions used", told)
}

func TestAKeyIsAFileOrItsText(t *testing.T) {
	public, _ := newKey(t)
	text, err := public.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{path, public.String()} {
		if key, err := ParseKey(s); err != nil || !key.Equal(public) {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{path + "x", "RW" + public.String()[4:] + "==", "/dev/null", ""} {
		if _, err := ParseKey(s); err == nil {
			t.Errorf("%q is a key", s)
		}
	}
}

func FuzzRevisions(f *testing.F) {
	f.Add(revisions{{1, "a"}: 1, {1 << 63, "debian-12"}: 1<<64 - 1}.format())
	f.Add(revisions{}.format())
	f.Add([]byte(revisionsHead))
	f.Fuzz(func(t *testing.T, p []byte) {
		// Past the sum, or nothing behind it would ever be tried.
		if n := len(p) - len(revisionsSum) - 2*image.HashSize - 1; n > 0 {
			p = fmt.Appendf(p[:n:n], "%s%s\n", revisionsSum, image.Sum(p[:n]))
		}
		known, err := parseRevisions(p)
		if err == nil && string(known.format()) != string(p) {
			t.Errorf("%q reads as something else", p)
		}
	})
}
