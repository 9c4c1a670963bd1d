package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"aead.dev/minisign"
)

// A publisher signs the descriptor of an image, not its bytes: the id in it is the hash of all of them. The signature is the text that
// minisign writes to a .minisig file, over SignedText. It is kept in the sidecar and travels with the server's offer.

// MaxSignature is the longest signature in bytes; minisign's own have about 300. The rest of an offer has to fit beside it.
const MaxSignature = 1024

// Why a signature does not count.
var (
	// ErrUnsigned: there is none.
	ErrUnsigned = errors.New("it is not signed")
	// ErrSigner: it was made with another key than those that are trusted.
	ErrSigner = errors.New("it is signed with a key that is not trusted")
	// ErrSignature: it is no signature, or not one of this descriptor.
	ErrSignature = errors.New("its signature is wrong")
)

// SignedText is what a signature of the image is made over: seven lines of text, the same for the same descriptor everywhere.
//
//	dnbd image 1
//	name debian-12
//	revision 3
//	id 64 hexadecimal digits
//	size 1073741824
//	block-size 65536
//	created 2026-11-21T14:26:38Z
func (d Descriptor) SignedText() []byte {
	return fmt.Appendf(nil, "dnbd image %d\nname %s\nrevision %d\nid %s\nsize %d\nblock-size %d\ncreated %s\n",
		FormatVersion, d.Name, d.Revision, d.ID(), d.Size, d.BlockSize, d.Created.UTC().Format(time.RFC3339))
}

// Sign is a signature of d, in the form that minisign writes by itself: of the text's hash. When goes into it.
func (d Descriptor) Sign(key minisign.PrivateKey, when time.Time) []byte {
	r := minisign.NewReader(bytes.NewReader(d.SignedText()))
	_, _ = io.Copy(io.Discard, r) // what is in memory can be read
	return r.SignWithComments(key, fmt.Sprintf("timestamp:%d\tdnbd image %s@%d", when.Unix(), d.Name, d.Revision),
		"signature of an image; dnbd image info --descriptor prints what is signed")
}

// CheckSignature returns nil if the signature is one of d by one of keys. Otherwise the error wraps ErrUnsigned, ErrSigner or
// ErrSignature. It takes any bytes for a signature.
func (d Descriptor) CheckSignature(signature []byte, keys ...minisign.PublicKey) error {
	if len(signature) == 0 {
		return ErrUnsigned
	}
	s, err := parseSignature(signature)
	if err != nil {
		return err
	}
	err = fmt.Errorf("%w: %016X", ErrSigner, s.KeyID)
	for _, key := range keys {
		if key.ID() != s.KeyID {
			continue
		}
		if minisign.Verify(key, d.SignedText(), signature) {
			return nil
		}
		err = fmt.Errorf("%w: key %016X did not sign this", ErrSignature, s.KeyID)
	}
	return err
}

// Signer is the id of the key that a signature says it was made with, or 0 for what is no signature.
func Signer(signature []byte) uint64 {
	s, err := parseSignature(signature)
	if err != nil {
		return 0
	}
	return s.KeyID
}

func parseSignature(p []byte) (minisign.Signature, error) {
	var s minisign.Signature
	if len(p) > MaxSignature {
		return s, fmt.Errorf("%w: it has %d bytes, %d at most", ErrSignature, len(p), MaxSignature)
	}
	if err := s.UnmarshalText(p); err != nil {
		return s, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return s, nil
}

// Sign puts a signature into the sidecar of the image at path, which must be fresh. It comes from make, which is given the text to be
// signed. The error wraps ErrSignature when what make returns cannot be one. That it is by the right key is for make to see to.
func Sign(path string, make func(d Descriptor) ([]byte, error)) (*Image, error) {
	m, err := Open(path)
	if err != nil {
		return nil, err
	}
	signature, err := make(m.Descriptor())
	if err == nil {
		_, err = parseSignature(signature)
	}
	if err == nil {
		m.sidecar.Signature = signature
		_, err = keep(m)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sign image %s: %w", path, err), m.Close())
	}
	return m, nil
}
