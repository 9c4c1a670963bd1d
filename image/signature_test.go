package image

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"
)

// newKey is a key for signatures.
func newKey(t testing.TB) minisign.PrivateKey {
	t.Helper()
	_, key, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func public(key minisign.PrivateKey) minisign.PublicKey { return key.Public().(minisign.PublicKey) }

// signed signs the image at path.
func signed(t testing.TB, path string, key minisign.PrivateKey) {
	t.Helper()
	m, err := Sign(path, func(d Descriptor) ([]byte, error) { return d.Sign(key, time.Now()), nil })
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
}

func TestTheSignedTextIsTheDocumentedOne(t *testing.T) {
	want := `dnbd image 1
name one-byte
revision 3
id ` + small(t).Descriptor.ID().String() + `
size 1
block-size 4096
created 2023-11-14T22:13:20Z
`
	if got := string(small(t).Descriptor.SignedText()); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestASignatureIsOfOneDescriptorByOneKey(t *testing.T) {
	key, other := newKey(t), newKey(t)
	d := small(t).Descriptor
	signature := d.Sign(key, time.Now())
	renamed, newer, later, resized, changed := d, d, d, d, d
	renamed.Name += "x"
	newer.Revision++
	later.Created = d.Created.Add(time.Second)
	resized.Size++
	changed.Root[5] ^= 1
	for what, c := range map[string]struct {
		d         Descriptor
		signature []byte
		keys      []minisign.PublicKey
		want      error
	}{
		"as signed":                 {d, signature, []minisign.PublicKey{public(key)}, nil},
		"one of two trusted keys":   {d, signature, []minisign.PublicKey{public(other), public(key)}, nil},
		"no signature":              {d, nil, []minisign.PublicKey{public(key)}, ErrUnsigned},
		"another key":               {d, signature, []minisign.PublicKey{public(other)}, ErrSigner},
		"no key":                    {d, signature, nil, ErrSigner},
		"another name":              {renamed, signature, []minisign.PublicKey{public(key)}, ErrSignature},
		"another revision":          {newer, signature, []minisign.PublicKey{public(key)}, ErrSignature},
		"another time":              {later, signature, []minisign.PublicKey{public(key)}, ErrSignature},
		"another size":              {resized, signature, []minisign.PublicKey{public(key)}, ErrSignature},
		"other bytes":               {changed, signature, []minisign.PublicKey{public(key)}, ErrSignature},
		"no signature but text":     {d, []byte("signed by me\n"), []minisign.PublicKey{public(key)}, ErrSignature},
		"half a signature":          {d, signature[:150], []minisign.PublicKey{public(key)}, ErrSignature},
		"another trusted comment":   {d, bytes.Replace(signature, []byte("timestamp:1"), []byte("timestamp:2"), 1), []minisign.PublicKey{public(key)}, ErrSignature},
		"another untrusted comment": {d, bytes.Replace(signature, []byte("untrusted comment: s"), []byte("untrusted comment: S"), 1), []minisign.PublicKey{public(key)}, nil},
		"longer than allowed":       {d, append(bytes.Clone(signature), make([]byte, MaxSignature)...), []minisign.PublicKey{public(key)}, ErrSignature},
	} {
		if err := c.d.CheckSignature(c.signature, c.keys...); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

func TestTheLongestSignatureFits(t *testing.T) {
	d := small(t).Descriptor
	d.Name, d.Revision = strings.Repeat("n", MaxNameLen), 1<<48-1
	if n := len(d.Sign(newKey(t), time.Now())); n > MaxSignature {
		t.Errorf("%d bytes, %d at most", n, MaxSignature)
	}
}

func TestASignatureStaysAsLongAsWhatWasSigned(t *testing.T) {
	path, key := writeImage(t, randomBytes(100_000, 1)), newKey(t)
	mustCreate(t, path, CreateOptions{Name: "disk"})
	signed(t, path, key)
	check := func(m *Image, want error) {
		t.Helper()
		if err := m.Descriptor().CheckSignature(m.Signature(), public(key)); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%v, want %v", err, want)
		}
	}
	check(mustOpen(t, path), nil)
	check(mustCreate(t, path, CreateOptions{}), nil) // hashed anew, the same
	renamed := mustOpen(t, path)
	if err := renamed.Rename("other"); err != nil {
		t.Fatal(err)
	}
	check(renamed, ErrUnsigned)
	same := mustOpen(t, path)
	if err := same.Rename("disk"); err != nil {
		t.Fatal(err)
	}
	check(same, nil)

	overwrite(t, path, randomBytes(100_000, 2))
	check(mustCreate(t, path, CreateOptions{}), ErrUnsigned)
}

func TestTheStockToolAndWeVerifyEachOther(t *testing.T) {
	tool, err := exec.LookPath("minisign")
	if err != nil {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(tool, args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	write := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(file(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := small(t).Descriptor
	write("text", d.SignedText())

	// Its key, both our signatures and its own.
	run("-G", "-W", "-p", file("its.pub"), "-s", file("its.key"))
	text, err := os.ReadFile(file("its.key"))
	if err != nil {
		t.Fatal(err)
	}
	var key minisign.PrivateKey
	if err := key.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	write("ours.minisig", d.Sign(key, time.Now()))
	run("-V", "-p", file("its.pub"), "-m", file("text"), "-x", file("ours.minisig"))
	for _, args := range [][]string{{}, {"-l"}} { // of the hash, and of the text itself as old versions did
		run(append([]string{"-S", "-W", "-s", file("its.key"), "-m", file("text"), "-x", file("its.minisig")}, args...)...)
		signature, err := os.ReadFile(file("its.minisig"))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.CheckSignature(signature, public(key)); err != nil {
			t.Errorf("minisign %v: %v", args, err)
		}
	}

	// Our key, its signature.
	ours := newKey(t)
	secret, err := ours.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	write("ours.key", append(secret, '\n'))
	run("-S", "-W", "-s", file("ours.key"), "-m", file("text"), "-x", file("its.minisig"))
	signature, err := os.ReadFile(file("its.minisig"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.CheckSignature(signature, public(ours)); err != nil {
		t.Error(err)
	}
}

func FuzzSignature(f *testing.F) {
	key := newKey(f)
	d := small(f).Descriptor
	good := d.Sign(key, d.Created)
	f.Add(good)
	f.Add(good[:100])
	f.Add([]byte("untrusted comment: \n\ntrusted comment: \n\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		err := d.CheckSignature(p, public(key))
		if err == nil && Signer(p) != key.ID() {
			t.Errorf("%q passes", p)
		}
		if err != nil && bytes.Equal(p, good) {
			t.Error(err)
		}
	})
}
