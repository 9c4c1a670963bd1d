package image

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// small is the sidecar of an image of one byte.
func small(t testing.TB) *Sidecar {
	tree, sums := buildAll(t, []byte{'x'}, 4096)
	return &Sidecar{
		Descriptor: Descriptor{
			Name: "one-byte", Revision: 3, Created: time.Unix(1_700_000_000, 0).UTC(), Size: 1, BlockSize: 4096, Root: tree.Root(),
		},
		ModTime:   time.Unix(1_600_000_000, 5),
		Tree:      tree,
		Checksums: sums,
	}
}

func encode(t testing.TB, s *Sidecar) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decode(p []byte) (*Sidecar, error) { return decodeSidecar(bytes.NewReader(p), int64(len(p))) }

// resum makes the checksum of a header right again.
func resum(p []byte) []byte {
	n := sidecarFixed + int(binary.BigEndian.Uint32(p[20:])) + int(binary.BigEndian.Uint32(p[24:]))
	sum := Sum(p[:n])
	copy(p[n:], sum[:])
	return p
}

func TestTheSidecarHasTheDocumentedBytes(t *testing.T) {
	golden := strings.Join([]string{
		"89646e62640d0a1a", "00000001", "00000001", "00001000", "00000008", "00000000", "00000000",
		"0000000000000001", "0000000000000003", "000000006553f100", "16345785d8a00005",
		"f785e707c70b0ce9c146e5a8a53dfb7b96d0363a5078c27ed239803bb405ec88",
		hex.EncodeToString([]byte("one-byte")),
		"d3908de3c2dae0f768943e773bdbe3e672dcdb87e77d00b578e207dd816ea7ef",
		"3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5",
		"eaf06c6480b2cd11",
		"576ae324fc144786d87500059fe4e2908797cfb6734869896ac5030488274a3e",
	}, "")
	got := encode(t, small(t))
	if hex.EncodeToString(got) != golden {
		t.Errorf("written: %x\nwant:    %s", got, golden)
	}
	p, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	s, err := decode(p)
	if err != nil {
		t.Fatal(err)
	}
	want := small(t)
	if s.Descriptor != want.Descriptor || !s.ModTime.Equal(want.ModTime) || mustHash(t, s.Tree, 0) != mustHash(t, want.Tree, 0) {
		t.Errorf("read: %+v, want %+v", s, want)
	}
}

func TestADamagedSidecarIsRefusedForWhatIsWrong(t *testing.T) {
	whole := encode(t, small(t))
	header := len(whole) - HashSize - checksumSize - HashSize
	sums := header + HashSize
	set := func(at int, b byte) func([]byte) []byte {
		return func(p []byte) []byte { p[at] = b; return p }
	}
	resummed := func(at int, b byte) func([]byte) []byte {
		return func(p []byte) []byte { p[at] = b; return resum(p) }
	}
	for what, c := range map[string]struct {
		change func([]byte) []byte
		want   error
	}{
		"whole":                      {func(p []byte) []byte { return p }, nil},
		"empty":                      {func([]byte) []byte { return nil }, ErrSidecarTruncated},
		"text":                       {func([]byte) []byte { return []byte("hello") }, ErrSidecarMagic},
		"magic":                      {set(0, 0), ErrSidecarMagic},
		"magic of a text-mode copy":  {set(5, '\n'), ErrSidecarMagic},
		"half of the magic":          {func(p []byte) []byte { return p[:4] }, ErrSidecarTruncated},
		"half of the header":         {func(p []byte) []byte { return p[:50] }, ErrSidecarTruncated},
		"half of the name":           {func(p []byte) []byte { return p[:100] }, ErrSidecarTruncated},
		"half of the checksum":       {func(p []byte) []byte { return p[:120] }, ErrSidecarTruncated},
		"no tree":                    {func(p []byte) []byte { return p[:header] }, ErrSidecarTruncated},
		"half of the tree":           {func(p []byte) []byte { return p[:header+5] }, ErrSidecarTruncated},
		"no checksums":               {func(p []byte) []byte { return p[:sums] }, ErrSidecarTruncated},
		"half of the checksums":      {func(p []byte) []byte { return p[:sums+3] }, ErrSidecarTruncated},
		"flipped bit in a checksum":  {set(sums, whole[sums]^1), ErrSidecarChecksum},
		"more than the checksums":    {func(p []byte) []byte { return append(p, 0) }, ErrSidecarInvalid},
		"version 2":                  {set(11, 2), ErrSidecarVersion},
		"algorithm 2":                {resummed(15, 2), ErrSidecarVersion},
		"signature of 32 KiB":        {set(26, 128), ErrSidecarInvalid},
		"half of the signature":      {set(26, 1), ErrSidecarTruncated},
		"name of 4 GiB":              {set(20, 0xff), ErrSidecarInvalid},
		"reserved field":             {resummed(31, 1), ErrSidecarInvalid},
		"block size 3":               {resummed(19, 3), ErrSidecarInvalid},
		"size 0":                     {resummed(39, 0), ErrSidecarInvalid},
		"negative size":              {resummed(32, 0x80), ErrSidecarInvalid},
		"size of 64 TiB":             {resummed(33, 0x40), ErrSidecarInvalid},
		"size of 1 TiB":              {resummed(34, 1), ErrSidecarTruncated},
		"revision 0":                 {resummed(47, 0), ErrSidecarInvalid},
		"name with a slash":          {resummed(97, '/'), ErrSidecarInvalid},
		"flipped bit in the size":    {set(39, 2), ErrSidecarChecksum},
		"flipped bit in the root":    {set(64, whole[64]^1), ErrSidecarChecksum},
		"another root":               {resummed(64, whole[64]^1), ErrSidecarChecksum},
		"flipped bit in the tree":    {set(header, whole[header]^1), ErrSidecarChecksum},
		"flipped bit in the last":    {set(len(whole)-1, whole[len(whole)-1]^1), ErrSidecarChecksum},
		"flipped bit in the sum":     {set(header-1, whole[header-1]^1), ErrSidecarChecksum},
		"a name longer than allowed": {set(23, MaxNameLen+1), ErrSidecarInvalid},
	} {
		if _, err := decode(c.change(bytes.Clone(whole))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

func TestNoFlippedBitIsOverlooked(t *testing.T) {
	tree, sums := buildAll(t, randomBytes(130*4096, 1), 4096)
	s := small(t)
	s.Descriptor.Size, s.Descriptor.Root, s.Tree, s.Checksums = tree.Geometry().Size(), tree.Root(), tree, sums
	whole := encode(t, s)
	for i := range whole {
		p := bytes.Clone(whole)
		p[i] ^= 1 << (i % 8)
		if _, err := decode(p); err == nil {
			t.Errorf("a bit of byte %d was flipped, and the sidecar read", i)
		}
	}
}

func TestASidecarReadsBackFromItsFile(t *testing.T) {
	s, large := small(t), largeSidecar(t)
	s.Descriptor.Size, s.Descriptor.Root, s.Tree, s.Checksums = large.Descriptor.Size, large.Descriptor.Root, large.Tree, large.Checksums
	path := filepath.Join(t.TempDir(), "x.dnbd")
	for range 2 { // the second replaces the first
		if err := WriteSidecar(path, s, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadSidecar(path)
	if err != nil {
		t.Fatal(err)
	}
	if got.Descriptor != s.Descriptor {
		t.Errorf("read %+v, want %+v", got.Descriptor, s.Descriptor)
	}
	for b := range s.Tree.Geometry().Total() {
		if mustHash(t, got.Tree, b) != mustHash(t, s.Tree, b) {
			t.Fatalf("hash of block %d differs", b)
		}
	}
	if !slices.Equal(got.Checksums, s.Checksums) {
		t.Error("the checksums differ")
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v; want 0640", fi.Mode(), err)
	}
	mustHoldOnly(t, filepath.Dir(path), "x.dnbd")
}

func TestAFailedWriteLeavesTheOldSidecarAndNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.dnbd")
	if err := WriteSidecar(path, small(t), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	incomplete := small(t)
	incomplete.Descriptor.Name = "other"
	incomplete.Tree = NewTree(incomplete.Descriptor)
	if err := WriteSidecar(path, incomplete, 0o600); !errors.Is(err, ErrSidecarInvalid) {
		t.Errorf("writing an incomplete tree: %v, want ErrSidecarInvalid", err)
	}
	without := small(t)
	without.Checksums = nil
	if err := WriteSidecar(path, without, 0o600); !errors.Is(err, ErrSidecarInvalid) {
		t.Errorf("writing without checksums: %v, want ErrSidecarInvalid", err)
	}
	invalid := small(t)
	invalid.Descriptor.Name = ""
	if err := WriteSidecar(path, invalid, 0o600); !errors.Is(err, ErrName) {
		t.Errorf("writing without a name: %v, want ErrName", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the sidecar changed (%v)", err)
	}
	mustHoldOnly(t, filepath.Dir(path), "x.dnbd")
	if err := WriteSidecar(filepath.Join(path, "y.dnbd"), small(t), 0o600); err == nil || !strings.Contains(err.Error(), "y.dnbd") {
		t.Errorf("writing below a file: %v, want an error that names the sidecar", err)
	}
}

func TestReadingNoSidecarSaysSo(t *testing.T) {
	if _, err := ReadSidecar(filepath.Join(t.TempDir(), "x.dnbd")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadSidecar = %v, want fs.ErrNotExist", err)
	}
}

func TestASidecarFitsAFileBySizeAndTime(t *testing.T) {
	s := small(t)
	if err := s.Validate(1, s.ModTime); err != nil {
		t.Errorf("its own file: %v", err)
	}
	if err := s.Validate(1, time.Time{}); err != nil {
		t.Errorf("a block device: %v", err)
	}
	if err := s.Validate(1, s.ModTime.Add(1)); !errors.Is(err, ErrStale) || errors.Is(err, ErrOtherFile) {
		t.Errorf("another time: %v, want ErrStale only", err)
	}
	if err := s.Validate(2, s.ModTime); !errors.Is(err, ErrStale) || !errors.Is(err, ErrOtherFile) {
		t.Errorf("another size: %v, want ErrOtherFile and ErrStale", err)
	}
}

func FuzzDecodeSidecar(f *testing.F) {
	whole := encode(f, small(f))
	f.Add(whole)
	signed := small(f)
	signed.Signature = signed.Descriptor.Sign(newKey(f), signed.Descriptor.Created)
	f.Add(encode(f, signed))
	f.Add(whole[:100])
	f.Add([]byte(sidecarMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > sidecarFixed {
			// Past the checksum, or nothing behind it would ever be tried.
			n, s := binary.BigEndian.Uint32(p[20:]), binary.BigEndian.Uint32(p[24:])
			if n <= MaxNameLen && s <= MaxSignature && len(p) >= sidecarFixed+int(n+s)+HashSize {
				p = resum(bytes.Clone(p))
			}
		}
		s, err := decode(p)
		if err == nil && !bytes.Equal(encode(t, s), p) {
			t.Errorf("%x reads as another sidecar", p)
		}
	})
}

// mustHoldOnly checks that a directory has these files and no others.
func mustHoldOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}
