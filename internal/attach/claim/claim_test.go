//go:build linux

package claim

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/internal/attach"
)

// places returns a parent for claims and a path to claim.
func places(t *testing.T) (parent, device string) {
	dir := t.TempDir()
	return filepath.Join(dir, "run"), filepath.Join(dir, "dnbd0")
}

func take(t *testing.T, parent, driver, device string) *Claim {
	t.Helper()
	c, err := Take(parent, driver, device)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAPathIsClaimedOnce(t *testing.T) {
	parent, device := places(t)
	c := take(t, parent, "one", device)
	_, err := Take(parent, "one", device)
	if !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), attach.Process(os.Getpid())) {
		t.Errorf("a second claim: %v, want one that names this process", err)
	}
	if err := c.Drop(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left are %v (%v)", left, err)
	}
	if err := take(t, parent, "two", device).Drop(); err != nil {
		t.Error(err)
	}
}

func TestLeftoversAreTheirDriversOnly(t *testing.T) {
	parent, device := places(t)
	if Exists(parent, "one", device) {
		t.Error("a claim exists before it was made")
	}
	c := take(t, parent, "one", device)
	if err := errors.Join(c.Link("/dev/target"), c.Leave()); err != nil {
		t.Fatal(err)
	}
	if !Exists(parent, "one", device) || Exists(parent, "two", device) {
		t.Error("Exists does not tell whose claim it is")
	}
	if _, err := Take(parent, "two", device); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "driver one") {
		t.Errorf("another driver's leftover: %v, want one that names the driver", err)
	}
	c = take(t, parent, "one", device)
	if target, err := c.Target(); err != nil || target != "/dev/target" {
		t.Errorf("the target is %q, %v", target, err)
	}
	if err := errors.Join(c.Unlink(), c.Free(), c.Drop()); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotOursIsKept(t *testing.T) {
	parent, device := places(t)
	if err := os.WriteFile(device, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := take(t, parent, "one", device)
	if err := c.Free(); !errors.Is(err, os.ErrExist) {
		t.Errorf("Free: %v", err)
	}
	if err := c.Link("/dev/target"); !errors.Is(err, os.ErrExist) {
		t.Errorf("Link: %v", err)
	}
	if err := errors.Join(c.Unlink(), c.Drop()); err != nil {
		t.Error(err)
	}
	if kept, err := os.ReadFile(device); string(kept) != "precious" {
		t.Errorf("the file has %q, %v", kept, err)
	}
}

func TestThePlaceIsTheFirstThatIsNotInUse(t *testing.T) {
	var tried []string
	errs := []error{ErrTaken, os.ErrExist, attach.ErrBusy, nil}
	_, err := Place(attach.Options{}, func(o attach.Options) (attach.Attachment, error) {
		tried = append(tried, o.Device)
		return nil, errs[len(tried)-1]
	})
	if got := strings.Join(tried, " "); err != nil || got != "/dev/dnbd0 /dev/dnbd1 /dev/dnbd2 /dev/dnbd3" {
		t.Errorf("tried %s, %v", got, err)
	}
	boom := errors.New("boom")
	tried = nil
	if _, err := Place(attach.Options{Device: "/dev/x"}, func(o attach.Options) (attach.Attachment, error) {
		tried = append(tried, o.Device)
		return nil, boom
	}); err != boom || len(tried) != 1 || tried[0] != "/dev/x" {
		t.Errorf("tried %v, %v", tried, err)
	}
}
