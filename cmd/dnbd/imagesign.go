package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"aead.dev/minisign"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/trust"
)

// maxKeyFile bounds what is read of the file of a key, a signature or a passphrase, in bytes.
const maxKeyFile = 4096

func imageKeygenCommand() *cobra.Command {
	var p passphrase
	var none bool
	cmd := &cobra.Command{
		Use:   "keygen FILE",
		Short: "Make a key to sign images with",
		Long: "Make a key to sign images with: FILE, which is secret, and FILE.pub, which clients are given. They are keys of minisign,\n" +
			"protected by a passphrase unless you say otherwise.",
		Example: "  dnbd image keygen publisher.key",
		Args:    oneArgument("name the file to make"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if none && p.file != "" {
				return usagef("--no-passphrase and --passphrase-file contradict each other")
			}
			public, private, err := minisign.GenerateKey(rand.Reader)
			if err != nil {
				return err
			}
			secret, err := private.MarshalText()
			if !none && err == nil {
				var text string
				if text, err = p.read(cmd, "Passphrase for "+args[0]+": ", true); err == nil {
					secret, err = minisign.EncryptKey(text, private)
				}
			}
			if err != nil {
				return err
			}
			open, err := public.MarshalText()
			if err != nil {
				return err
			}
			if err := writeNew(args[0], append(secret, '\n'), 0o600); err != nil {
				return err
			}
			if err := writeNew(args[0]+".pub", append(open, '\n'), 0o644); err != nil {
				return errors.Join(err, os.Remove(args[0]))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", public)
			return err
		},
	}
	p.add(cmd)
	cmd.Flags().BoolVar(&none, "no-passphrase", false, "do not protect the key, for programs that sign")
	return cmd
}

func imageSignCommand() *cobra.Command {
	var p passphrase
	var t trustFlags
	var keyFile, signatureFile string
	cmd := &cobra.Command{
		Use:   "sign FILE",
		Short: "Sign an image's name, revision and content",
		Long: "Sign an image's descriptor, which has its name, revision, size and the hash of its content, and keep the signature\n" +
			"in the sidecar. Servers pass it on, and clients with --trust use nothing else. It is of what the sidecar says: 'dnbd\n" +
			"image verify' compares that with the file. A new content is to be signed anew.\n\n" +
			"--key names a secret key of 'dnbd image keygen' or of minisign. A signature that minisign made elsewhere, of what\n" +
			"'dnbd image info --descriptor' prints, is put in with --signature, if the public key of --trust verifies it.",
		Example: "  dnbd image sign --key publisher.key disk.img\n\n" +
			"  dnbd image info --descriptor disk.img > disk.txt && minisign -S -s publisher.key -m disk.txt\n" +
			"  dnbd image sign --signature disk.txt.minisig --trust publisher.key.pub disk.img",
		Args: oneArgument("name the file of the image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (keyFile == "") == (signatureFile == "") {
				return usagef("name the key, --key FILE, or a signature that is there, --signature FILE")
			}
			if (signatureFile == "") != (len(t.trust) == 0) {
				return usagef("--signature FILE and --trust KEY go together: the signature is checked before it is kept")
			}
			sign := func(d image.Descriptor) ([]byte, error) {
				key, err := p.openKey(cmd, keyFile)
				if err != nil {
					return nil, err
				}
				return d.Sign(key, time.Now()), nil
			}
			if signatureFile != "" {
				sign = func(d image.Descriptor) ([]byte, error) {
					signature, err := readSmall(signatureFile, image.MaxSignature)
					if err != nil {
						return nil, err
					}
					return signature, t.signed(d, signature)
				}
			}
			m, err := image.Sign(args[0], sign)
			if err != nil {
				return err
			}
			return errors.Join(reportOf(m).writeText(cmd.OutOrStdout()), m.Close())
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "sign with the secret key in `FILE`")
	cmd.Flags().StringVar(&signatureFile, "signature", "", "take the signature in `FILE` (.minisig)")
	t.addKeys(cmd, "with --signature, the public `KEY` that it has to be by, a file or its text; may be repeated")
	p.add(cmd)
	return cmd
}

// signed says whether one of the keys signed d.
func (f *trustFlags) signed(d image.Descriptor, signature []byte) error {
	keys, err := f.keys()
	if err != nil {
		return err
	}
	if err := d.CheckSignature(signature, keys...); err != nil {
		return fmt.Errorf("image %s revision %d: %w", d.Name, d.Revision, err)
	}
	return nil
}

// keys are the keys that the flags name.
func (f *trustFlags) keys() ([]minisign.PublicKey, error) {
	var keys []minisign.PublicKey
	for _, s := range f.trust {
		key, err := trust.ParseKey(s)
		if err != nil {
			return nil, fmt.Errorf("--trust: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// passphrase is where the passphrase of a key comes from.
type passphrase struct{ file string }

func (p *passphrase) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "passphrase-file", "", "read the key's passphrase from the first line of `FILE` (default: ask at the terminal)")
}

// openKey reads a secret key, and asks for its passphrase if it has one.
func (p *passphrase) openKey(cmd *cobra.Command, path string) (minisign.PrivateKey, error) {
	var key minisign.PrivateKey
	text, err := readSmall(path, maxKeyFile)
	if err != nil {
		return key, err
	}
	if !minisign.IsEncrypted(text) {
		if err := key.UnmarshalText(text); err != nil {
			return key, fmt.Errorf("secret key %s: %w", path, err)
		}
		return key, nil
	}
	secret, err := p.read(cmd, "Passphrase of "+path+": ", false)
	if err != nil {
		return key, err
	}
	if key, err = minisign.DecryptKey(secret, text); err != nil {
		return key, fmt.Errorf("secret key %s: the passphrase is wrong, or the file is damaged: %w", path, err)
	}
	return key, nil
}

// read reads a passphrase, at the terminal twice if it is a new one.
func (p *passphrase) read(cmd *cobra.Command, prompt string, isNew bool) (string, error) {
	if p.file != "" {
		text, err := readSmall(p.file, maxKeyFile)
		line, _, _ := bytes.Cut(text, []byte("\n"))
		return string(line), err
	}
	stdin := int(os.Stdin.Fd())
	if !term.IsTerminal(stdin) {
		return "", errors.New("there is no terminal to ask for the passphrase at: name a file that holds it with --passphrase-file")
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(cmd.ErrOrStderr(), prompt)
		line, err := term.ReadPassword(stdin)
		fmt.Fprintln(cmd.ErrOrStderr())
		return string(line), err
	}
	first, err := ask(prompt)
	if !isNew || err != nil {
		return first, err
	}
	second, err := ask("Once more: ")
	if err == nil && first != second {
		err = errors.New("these two are not the same")
	}
	return first, err
}

// readSmall reads a file that is no longer than limit.
func readSmall(path string, limit int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err == nil && fi.Size() > limit {
		err = fmt.Errorf("%s has %d bytes, more than the %d of what was expected", path, fi.Size(), limit)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// writeNew makes a file that is not there yet.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
