package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/client"
	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/target"
	"github.com/dnbd/dnbd/internal/trust"
	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// settleTime is how much longer to listen after the first server offered the image, for a newer revision at another one,
	// or other bytes under its name. Servers on the same network answer within milliseconds.
	settleTime = 40 * time.Millisecond
	// hostsTime is the same for the hosts of --unicast, which may be far.
	hostsTime = time.Second
	// otherTime is how long servers may answer without one that has the image before it is believed not to be there. It is
	// time for three announcements of a server whose answer was lost.
	otherTime = 3 * time.Second
	// quietTime is how long a command may wait without saying so, and sayAgain after how long it says so again.
	quietTime = 1900 * time.Millisecond
	sayAgain  = 30 * time.Second
)

// open finds the image that t names and opens it. It is open as soon as one server has offered it, and hears what others read while it is
// found out whether there is a newer revision.
func open(ctx context.Context, n client.Network, t target.Target, p *trust.Policy) (*client.Client, error) {
	var c *client.Client
	of := func(o target.Offer) (err error) {
		c, err = client.Open(client.Config{Network: n, Descriptor: o.Descriptor, Log: n.Log})
		return err
	}
	offer, err := find(ctx, n, t, p, of)
	if c != nil && (err != nil || c.Descriptor() != offer.Descriptor) {
		err = errors.Join(err, c.Close())
		c = nil
	}
	if c == nil && err == nil {
		err = of(offer)
	}
	return c, err
}

// find waits until a server of the group offers the image that t names, one that p trusts if that is not nil. It says on what it
// waits. That servers answer and none has the image is an error. What early is called with, unless it is nil, will be found if nothing
// better is offered meanwhile; its error is find's.
func find(ctx context.Context, n client.Network, t target.Target, p *trust.Policy, early func(target.Offer) error) (target.Offer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var settling bool
	var answered time.Time
	wait := waiting{started: time.Now()}
	var failed error // of early
	d, err := client.Find(ctx, n, wire.Hello{Want: wire.HelloAll}, func(d client.Discovery) bool {
		now := time.Now()
		usable, _ := sift(p, t, d.Found)
		best, err := t.Choose(usable)
		var choice *target.Choice
		switch ambiguous := errors.As(err, &choice) && choice.Ambiguous; {
		case err == nil && t.ID != image.ID{}:
			return true
		case settling:
			return d.Complete
		case err == nil || ambiguous:
			settling = true
			if err == nil && early != nil {
				if failed = early(best); failed != nil {
					return true
				}
			}
			if len(n.Hosts) > 0 {
				time.AfterFunc(hostsTime, cancel)
			} else {
				time.AfterFunc(settleTime, cancel)
			}
			return d.Complete
		}
		if len(d.Found) > 0 {
			if answered.IsZero() {
				answered = now
			}
			return now.Sub(answered) >= otherTime || d.Complete && len(d.Failed) == 0
		}
		if wait.due(now) {
			n.Log.Warn(fmt.Sprintf("waiting for %s %v: %s", t.What(), n, heard(n, d)), "for", wait.since(now))
		}
		return false
	})
	if failed != nil {
		return target.Offer{}, failed
	}
	if err != nil && !settling {
		return target.Offer{}, err
	}
	usable, refused := sift(p, t, d.Found)
	offer, err := t.Choose(usable)
	if err != nil && len(refused) > 0 {
		err = fmt.Errorf("%w; heard, and not used for --trust:%s", err, refusals(refused))
	}
	if err != nil || p == nil {
		return offer, err
	}
	i := slices.IndexFunc(usable, func(f mcast.Found) bool { return f.Descriptor == offer.Descriptor })
	if err := p.Use(offer.Descriptor, usable[i].Signature); err != nil {
		return target.Offer{}, fmt.Errorf("use %s@%d: %w", offer.Descriptor.Name, offer.Descriptor.Revision, err)
	}
	return offer, nil
}

// heard says in words what was heard of a group that offers nothing, and what to look at.
func heard(n client.Network, d client.Discovery) string {
	if d.Complete {
		var why []string
		for _, host := range slices.Sorted(maps.Keys(d.Failed)) {
			why = append(why, fmt.Sprintf("%s: %v", host, d.Failed[host]))
		}
		if len(why) == 0 {
			return "the servers answer, and have none"
		}
		return strings.Join(why, "; ")
	}
	switch {
	case len(d.Servers) > 0:
	case d.Unopened.Foreign > 0 && n.Keys == nil:
		return "heard sealed datagrams: this group has a key; name the file that holds it with --group-key"
	case d.Unopened.Foreign > 0:
		return fmt.Sprintf("heard sealed datagrams that this key does not open; here is %s: compare what 'dnbd key list' "+
			"says of the server's file", strings.Join(n.Keys.Names(), ", "))
	case d.Unopened.Plain > 0:
		return "heard datagrams that are not sealed, which are not listened to; check that the servers have --group-key"
	default:
		return fmt.Sprintf("nothing was heard; check that a server runs in this group, that --iface names the right network, that "+
			"the switches pass multicast (IGMP snooping needs a querier), and that no firewall stops UDP port %d", wire.Port)
	}
	ids := slices.Compact(slices.Sorted(maps.Values(d.Servers)))
	return fmt.Sprintf("heard %s, which offers nothing, or does not allow this host, or whose answer does not arrive; check that no firewall stops "+
		"UDP port %d",
		target.ServerList(ids), wire.Port)
}

// waiting decides when somebody who waits should say so.
type waiting struct {
	started time.Time
	said    time.Time
}

// due says whether it is time to say something, and takes it as said.
func (w *waiting) due(now time.Time) bool {
	if now.Sub(w.started) < quietTime || now.Sub(w.said) < sayAgain {
		return false
	}
	w.said = now
	return true
}

// since is how long it has been waiting, in whole seconds.
func (w *waiting) since(now time.Time) time.Duration { return now.Sub(w.started).Round(time.Second) }
