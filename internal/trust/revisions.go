package trust

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/durable"
	"github.com/dnbd/dnbd/internal/flock"
)

// Revisions is the path of a file that remembers the newest revision of each name that was used, for each key that was trusted
// then. It is text: a line that says what it is, a line for each key and name in order, and the BLAKE3-256 of all that is before.
//
//	dnbd revisions 1
//	0E5A76B1C9F0D1A4 debian-12 3
//	sum 64 hexadecimal digits
//
// Whoever reads it finds what was there before or all of the new one, even after a crash. A process that changes it holds the lock of
// its directory. One that is not there knows nothing.
type Revisions string

// ErrDamaged: the file is not what was written to it.
var ErrDamaged = errors.New("the file of known revisions is damaged")

const (
	revisionsHead = "dnbd revisions 1\n"
	revisionsSum  = "sum "
	// maxRevisions bounds the file, in bytes: there is a line for each image that was ever used here, of 170 at most.
	maxRevisions = 1 << 20
)

// revisions is what the file says.
type revisions map[label]uint64

type label struct {
	key  uint64 // its id
	name string // of the image
}

// DefaultRevisions is the file of this user: in $XDG_STATE_HOME/dnbd, else /var/lib/dnbd for root, else ~/.local/state/dnbd.
func DefaultRevisions() (Revisions, error) {
	dir := os.Getenv("XDG_STATE_HOME")
	switch {
	case dir != "":
	case os.Geteuid() == 0:
		dir = "/var/lib"
	default:
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find where revisions are remembered: %w; XDG_STATE_HOME can name a directory", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return Revisions(filepath.Join(dir, "dnbd", "revisions")), nil
}

func (r Revisions) load() (revisions, error) {
	f, err := os.Open(string(r))
	if errors.Is(err, fs.ErrNotExist) {
		return revisions{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read known revisions: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRevisions+1))
	if err != nil {
		return nil, fmt.Errorf("read known revisions: %w", err)
	}
	known, err := parseRevisions(text)
	if err != nil {
		return nil, fmt.Errorf("read known revisions: %s: %w; remove it to forget which revisions were used", string(r), err)
	}
	return known, nil
}

// change lets f change what the file says, alone.
func (r Revisions) change(f func(revisions) error) error {
	dir := filepath.Dir(string(r))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("remember the revision: %w; XDG_STATE_HOME can name another directory", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("remember the revision: %w", err)
	}
	defer d.Close() // which gives the lock back
	if err := flock.Wait(d); err != nil && !errors.Is(err, flock.ErrNoLocks) {
		return fmt.Errorf("remember the revision: %s: %w", dir, err)
	}
	known, err := r.load()
	if err != nil {
		return err
	}
	was := maps.Clone(known)
	if err := f(known); err != nil || maps.Equal(was, known) {
		return err
	}
	if err := r.write(known.format()); err != nil {
		return fmt.Errorf("remember the revision: %w; XDG_STATE_HOME can name another directory", err)
	}
	return nil
}

// write replaces the file.
func (r Revisions) write(text []byte) error {
	if len(text) > maxRevisions {
		return fmt.Errorf("%s: more than %d bytes; remove it to forget which revisions were used", string(r), maxRevisions)
	}
	return durable.Replace(string(r), 0o644, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}

func (k revisions) format() []byte {
	text := []byte(revisionsHead)
	order := func(a, b label) int { return cmp.Or(cmp.Compare(a.key, b.key), strings.Compare(a.name, b.name)) }
	for _, l := range slices.SortedFunc(maps.Keys(k), order) {
		text = fmt.Appendf(text, "%016X %s %d\n", l.key, l.name, k[l])
	}
	return fmt.Appendf(text, "%s%s\n", revisionsSum, image.Sum(text))
}

// parseRevisions reads what format writes, and nothing else. The error wraps ErrDamaged.
func parseRevisions(text []byte) (revisions, error) {
	if len(text) > maxRevisions {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrDamaged, maxRevisions)
	}
	known := revisions{}
	for line := range strings.Lines(string(text)) {
		field := strings.Fields(line)
		if len(field) != 3 || line == revisionsHead {
			continue
		}
		key, err := strconv.ParseUint(field[0], 16, 64)
		revision, err2 := strconv.ParseUint(field[2], 10, 64)
		if errors.Join(err, err2) == nil {
			known[label{key, field[1]}] = revision
		}
	}
	// That it is what would be written says all: the lines, their order and the sum.
	if !bytes.Equal(known.format(), text) {
		return nil, ErrDamaged
	}
	return known, nil
}
