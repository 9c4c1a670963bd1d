package ublk

import (
	"encoding/json"
	"errors"
	"os"

	"github.com/dnbd/dnbd/internal/attach/claim"
	"github.com/dnbd/dnbd/ublk"
)

// record is what a claim keeps for the process that comes after this one.
type record struct {
	Tag uint64 `json:"tag"` // the number that the kernel keeps with the block device
	ID  string `json:"id"`  // attach.Options.ID
}

// recordFile is its file in the claim.
const recordFile = "ublk"

func writeRecord(c *claim.Claim, r record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(c.Path(recordFile), raw, 0o600)
}

// leftover finds the block device that the claim's last process has made; it is nil if there is none.
func leftover(c *claim.Claim) (was record, left *ublk.Info, err error) {
	raw, err := os.ReadFile(c.Path(recordFile))
	if err != nil || json.Unmarshal(raw, &was) != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return record{}, nil, err // it died before it had written the record, which it does first
	}
	disks, err := ublk.List()
	if err != nil {
		return record{}, nil, err
	}
	for _, i := range disks {
		if i.Tag == was.Tag {
			return was, &i, nil
		}
	}
	return was, nil, nil
}

// drop gives the claim up and removes its directory.
func drop(c *claim.Claim) error {
	err := os.Remove(c.Path(recordFile))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, c.Drop())
}
