package attach

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/dnbd/dnbd/block"
)

// named is a driver that is available unless it has a reason.
type named struct {
	name   string
	reason error
}

func (d named) Name() string     { return d.name }
func (d named) Available() error { return d.reason }

func (d named) Attach(context.Context, block.Device, Options) (Attachment, error) {
	return nil, errors.New("not here")
}

func TestChooseTakesTheFirstThatIsAvailable(t *testing.T) {
	bad, worse := named{"bad", errors.New("no kernel")}, named{"worse", errors.New("no root")}
	good, fair := named{"good", nil}, named{"fair", nil}
	for _, c := range []struct {
		name    string
		drivers []Driver
		want    string
		why     []string
		err     string // what the error must contain, empty: none
	}{
		{Auto, []Driver{good, fair}, "good", []string{"good is used"}, ""},
		{Auto, []Driver{bad, fair, good}, "fair", []string{"bad cannot be used: no kernel", "fair is used"}, ""},
		{"good", []Driver{bad, fair, good}, "good", []string{"good is used"}, ""},
		{"bad", []Driver{bad, fair, good}, "", nil, "driver bad cannot be used: no kernel"},
		{"none", []Driver{bad, fair}, "", nil, `no driver is called "none", there are auto and bad, fair`},
		{Auto, []Driver{bad, worse}, "", nil, "bad cannot be used: no kernel; worse cannot be used: no root"},
	} {
		d, why, err := Choose(c.name, c.drivers)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || d != nil {
				t.Errorf("Choose(%s) = %v, %v, want the error %s", c.name, d, err, c.err)
			}
			continue
		}
		if err != nil || d.Name() != c.want || !slices.Equal(why, c.why) {
			t.Errorf("Choose(%s) = %v, %q, %v, want %s, %q", c.name, d, why, err, c.want, c.why)
		}
	}
}

func TestBusyNamesTheHolders(t *testing.T) {
	err := Busy("/dev/dnbd0", []string{"mounted at /mnt", "cat (pid 12)"})
	if !errors.Is(err, ErrBusy) || err.Error() != "detach /dev/dnbd0: in use: mounted at /mnt, cat (pid 12)" {
		t.Error(err)
	}
}
