// Package trust decides which images a client may use: those that a trusted key has signed, and of each name none older than what was
// used before.
package trust

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"aead.dev/minisign"

	"github.com/dnbd/dnbd/image"
)

// ErrRollback: an older revision is offered than the one that was used before.
var ErrRollback = errors.New("it is older than what was used before")

// maxChecked bounds what is remembered of offers that were checked, each as two hashes: strangers can make any number of them.
const maxChecked = 4096

// Policy is what a client was told to trust. It is used by one goroutine.
type Policy struct {
	keys  []minisign.PublicKey
	known Revisions
	// Any revision will do, because the user named it or its id. It does not change what is remembered.
	Pinned bool
	// AllowRollback takes older revisions, and remembers them in place of the newer ones.
	AllowRollback bool
	checked       map[image.Hash]error // by the hash of text and signature: nobody makes us check the same twice
}

// New is the policy to trust keys, at least one, and to remember what is used in known.
func New(known Revisions, keys ...minisign.PublicKey) (*Policy, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key is trusted, so nothing is")
	}
	return &Policy{keys: keys, known: known, checked: map[image.Hash]error{}}, nil
}

// ParseKey reads a public key as minisign writes it: the path of its file, or its text as on minisign's command line, 56 characters that
// begin with RW.
func ParseKey(s string) (minisign.PublicKey, error) {
	var key minisign.PublicKey
	if len(s) == 56 && strings.HasPrefix(s, "RW") {
		if err := key.UnmarshalText([]byte(s)); err != nil {
			return key, fmt.Errorf("key %s: %w", s, err)
		}
		return key, nil
	}
	text, err := os.ReadFile(s)
	if err != nil {
		return key, fmt.Errorf("read public key: %w", err)
	}
	if err := key.UnmarshalText(text); err != nil {
		return key, fmt.Errorf("public key %s: %w; it is the .pub file that 'dnbd image keygen' or minisign made", s, err)
	}
	return key, nil
}

// Check says why an image may not be used: the error wraps one of CheckSignature, or ErrRollback. It remembers nothing: see Use.
func (p *Policy) Check(d image.Descriptor, signature []byte) error {
	if err := p.signed(d, signature); err != nil || p.Pinned || p.AllowRollback {
		return err
	}
	known, err := p.known.load()
	if err != nil {
		return err
	}
	return p.rollback(known, d)
}

// Use is Check for an image that is about to be used, and remembers its revision, with every trusted key: what one has signed is not
// replaced by what another one signed earlier.
func (p *Policy) Use(d image.Descriptor, signature []byte) error {
	if err := p.signed(d, signature); err != nil || p.Pinned {
		return err
	}
	return p.known.change(func(known revisions) error {
		if err := p.rollback(known, d); err != nil && !p.AllowRollback {
			return err
		}
		for _, key := range p.keys {
			known[label{key.ID(), d.Name}] = d.Revision
		}
		return nil
	})
}

func (p *Policy) signed(d image.Descriptor, signature []byte) error {
	text := image.Sum(d.SignedText())
	sum := image.Sum(append(text[:], signature...))
	err, done := p.checked[sum]
	if !done {
		if err = d.Validate(); err == nil {
			err = d.CheckSignature(signature, p.keys...)
		}
		if len(p.checked) == maxChecked {
			clear(p.checked)
		}
		p.checked[sum] = err
	}
	return err
}

// rollback says whether d is older than what is known.
func (p *Policy) rollback(known revisions, d image.Descriptor) error {
	for _, key := range p.keys {
		if newest := known[label{key.ID(), d.Name}]; d.Revision < newest {
			return fmt.Errorf("%w: that was revision %d", ErrRollback, newest)
		}
	}
	return nil
}
