package seal

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/dnbd/dnbd/internal/durable"
)

const (
	// maxKeys bounds the keys of a file: two are enough to change from one to the next.
	maxKeys = 16
	// maxFile bounds the size of a file of keys, in bytes.
	maxFile = 64 << 10
)

// Key is a key of a group.
type Key struct {
	ID     uint32 // follows from Secret, and tells nothing of it
	Secret [32]byte
}

// NewKey returns a key that is random.
func NewKey() Key {
	var secret [32]byte
	rand.Read(secret[:])
	return keyOf(secret)
}

// keyOf returns the key that is a secret.
func keyOf(secret [32]byte) Key {
	id, err := hkdf.Key(sha256.New, secret[:], nil, "dnbd 1 key id", 4)
	if err != nil {
		panic("seal: " + err.Error()) // only for lengths that HKDF cannot have
	}
	return Key{ID: binary.BigEndian.Uint32(id), Secret: secret}
}

// Name is the id as files and messages have it.
func (k Key) Name() string { return fmt.Sprintf("%08x", k.ID) }

// Format implements fmt.Formatter, so that no message tells the secret.
func (k Key) Format(w fmt.State, _ rune) { fmt.Fprint(w, "key ", k.Name()) }

// fileHead explains a new file to who opens it.
const fileHead = "# Keys of a dnbd group: id and secret. The first one seals, all open. Keep them secret.\n"

// Text returns the text of a file of keys.
func Text(keys []Key) []byte {
	b := []byte(fileHead)
	for _, k := range keys {
		b = fmt.Appendf(b, "%s %x\n", k.Name(), k.Secret)
	}
	return b
}

// Parse reads the text of a file of keys: a line for each, its id and its 32 bytes in hexadecimal. Lines that are empty or begin with
// # are comments. The error names the line.
func Parse(text []byte) ([]Key, error) {
	var keys []Key
	n := 0
	for line := range bytes.Lines(text) {
		n++
		fields := bytes.Fields(line)
		if len(fields) == 0 || fields[0][0] == '#' {
			continue
		}
		key, err := parseLine(fields)
		switch {
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", n, err)
		case find(keys, key.ID) != nil:
			return nil, fmt.Errorf("line %d: key %s is there twice", n, key.Name())
		case len(keys) == maxKeys:
			return nil, fmt.Errorf("line %d: there are more than %d keys", n, maxKeys)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it")
	}
	return keys, nil
}

func parseLine(fields [][]byte) (Key, error) {
	if len(fields) != 2 {
		return Key{}, errors.New("want a key's id and its secret")
	}
	id, err := strconv.ParseUint(string(fields[0]), 16, 32)
	if err != nil || len(fields[0]) != 8 {
		return Key{}, errors.New("the id of a key is 8 hexadecimal digits")
	}
	var secret [32]byte
	if len(fields[1]) != hex.EncodedLen(len(secret)) {
		return Key{}, fmt.Errorf("a key's secret is %d hexadecimal digits, not %d", hex.EncodedLen(len(secret)), len(fields[1]))
	}
	if _, err := hex.Decode(secret[:], fields[1]); err != nil {
		return Key{}, errors.New("a key's secret has something in it that is no hexadecimal digit")
	}
	key := keyOf(secret)
	if key.ID != uint32(id) {
		return Key{}, fmt.Errorf("key %08x is damaged: its secret is not the one with this id", id)
	}
	return key, nil
}

// ReadFile reads a file of keys. One that others than its owner may read is refused.
func ReadFile(path string) ([]Key, error) {
	keys, err := readFile(path)
	var file *fs.PathError
	if err != nil && !errors.As(err, &file) {
		err = fmt.Errorf("group key %s: %w", path, err)
	}
	return keys, err
}

func readFile(path string) ([]Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	others := fs.FileMode(0o077)
	if isCredential(path) {
		others = 0o007
	}
	// Windows has no such modes, and says 0666.
	if mode := st.Mode().Perm(); mode&others != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("its mode is %04o, so that others may read it: chmod 600 %s", mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(text) > maxFile:
		return nil, errors.New("it is too large to be a file of keys")
	}
	return Parse(text)
}

// isCredential says that systemd passes a file on to this process (LoadCredential=), in a directory that only its user and root can
// look into. The user may have it by an ACL, of which the mode shows as much as if the group could read it.
func isCredential(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	return dir != "" && filepath.Dir(path) == filepath.Clean(dir)
}

// Create makes a file with one new key, which nobody else may read. It fails if the file is there.
func Create(path string) (Key, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Key{}, err
	}
	key := NewKey()
	_, err = f.Write(Text([]Key{key}))
	return key, errors.Join(err, f.Sync(), f.Close())
}

// Replace puts a file with these keys in the place of the one that is there, as a whole: whoever reads it meanwhile has the one or
// the other.
func Replace(path string, keys []Key) error {
	return durable.Replace(path, 0o600, func(w io.Writer) error {
		_, err := w.Write(Text(keys))
		return err
	})
}
