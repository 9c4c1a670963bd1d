package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/target"
	"github.com/dnbd/dnbd/internal/trust"
)

// trustFlags say which images may be used.
type trustFlags struct {
	trust         []string // files of keys, or their texts
	allowRollback bool
}

// add gives them to a command.
func (f *trustFlags) add(cmd *cobra.Command) {
	f.addKeys(cmd, "use only images that this `KEY` signed, a file of minisign's or its text; may be repeated")
	cmd.Flags().BoolVar(&f.allowRollback, "allow-rollback", false, "with --trust, use an older revision than before, and take that for the newest from now on")
}

// addKeys gives a command --trust alone.
func (f *trustFlags) addKeys(cmd *cobra.Command, does string) {
	cmd.Flags().StringArrayVar(&f.trust, "trust", nil, does)
}

// check reads the keys. Their texts take the place of their files.
func (f *trustFlags) check() error {
	if f.allowRollback && len(f.trust) == 0 {
		return usagef("--allow-rollback does nothing without --trust KEY")
	}
	for i, s := range f.trust {
		key, err := trust.ParseKey(s)
		if err != nil {
			return fmt.Errorf("--trust: %w", err)
		}
		f.trust[i] = key.String()
	}
	return nil
}

// policy is what the flags say of images that t names; nil if they name no key. A revision or an id that is named is wanted, whatever
// was used before.
func (f *trustFlags) policy(t target.Target) (*trust.Policy, error) {
	if err := f.check(); err != nil || len(f.trust) == 0 {
		return nil, err
	}
	keys, err := f.keys()
	if err != nil {
		return nil, err
	}
	known, err := trust.DefaultRevisions()
	if err != nil {
		return nil, err
	}
	p, err := trust.New(known, keys...)
	if err != nil {
		return nil, err
	}
	p.Pinned, p.AllowRollback = t.Pinned(), f.allowRollback
	return p, nil
}

// without refuses the flags for what no key can have signed.
func (f *trustFlags) without(name, what string) error {
	if len(f.trust) > 0 || f.allowRollback {
		return usagef("--trust is for images of a group, and %s is %s", name, what)
	}
	return nil
}

// refusal is an offer that is not used.
type refusal struct {
	found mcast.Found
	why   error
}

// sift takes out of found what t names and p refuses. Without a policy nothing is refused.
func sift(p *trust.Policy, t target.Target, found []mcast.Found) (rest []mcast.Found, refused []refusal) {
	if p == nil {
		return found, nil
	}
	for _, f := range found {
		if !t.Names(f.Descriptor) {
			rest = append(rest, f)
		} else if err := p.Check(f.Descriptor, f.Signature); err != nil {
			refused = append(refused, refusal{f, err})
		} else {
			rest = append(rest, f)
		}
	}
	return rest, refused
}

// maxRefusals is how many refusals are written out: anybody can make any number of them.
const maxRefusals = 16

// refusals lists what was not used and why, each on a line of its own.
func refusals(refused []refusal) string {
	var b strings.Builder
	for i, r := range refused {
		if i == maxRefusals {
			fmt.Fprintf(&b, "\n  and %d more", len(refused)-i)
			break
		}
		d := r.found.Descriptor
		fmt.Fprintf(&b, "\n  %s@%d  id %s  from server %d at %v: %v", d.Name, d.Revision, d.ID(), r.found.Server, r.found.Addr, r.why)
	}
	return b.String()
}
