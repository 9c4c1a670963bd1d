//go:build linux

package e2e

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/dnbd/dnbd/e2e/lab"
)

// machine is what `dnbd status --json` says, in the names that are promised.
type machine struct {
	Attachments []struct {
		PID        int
		Group      string
		Interfaces []string
		Attachment struct {
			Device, Driver string
			Image          struct {
				Name     string
				Revision uint64
				ID       string
				Size     int64
			}
			Cache struct {
				Capacity, Used         int64
				Hits, Misses, Replaced *uint64
			}
			Traffic struct {
				Read, Wanted, Overheard, Repaired, Duplicates, Refused *uint64
				Drops                                                  *uint64 `json:"kernel_drops"`
			}
			Replicas []struct {
				Server  int
				Address string
				State   string
				RTT     int64 `json:"rtt_us"`
				Share   float64
				Rate    *uint64
			}
		}
	}
	Servers []struct {
		Server struct {
			ID     int
			Images []struct{ Name, ID string }
			Links  []struct {
				Interface string
				Sent      uint64
				Blocks    uint64
				Clients   int
			}
		}
	}
}

func TestStatusShowsWhatAnAttachmentDidAndItAddsUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, lab.Options{Servers: 2, Clients: 2, ServerRate: 200e6})
	image := film(t, 16*mib)
	r.serve("s1", "--id", "1", image)
	r.serve("s2", "--id", "2", image)
	one, two := r.attach("c1", "film16384"), r.attach("c2", "film16384")
	for _, a := range []*attachment{one, two} {
		if err := compare(a.device, image); err != nil {
			t.Error(err)
		}
	}
	var all machine
	if err := json.Unmarshal([]byte(r.dnbd("c1", "status", "--json").succeed()), &all); err != nil {
		t.Fatal(err)
	}
	if len(all.Attachments) != 2 || len(all.Servers) != 2 {
		t.Fatalf("status shows %d attachments and %d servers, want 2 and 2", len(all.Attachments), len(all.Servers))
	}
	for i, a := range []*attachment{one, two} {
		var m machine
		if err := json.Unmarshal([]byte(r.dnbd("c1", "status", "--json", a.device).succeed()), &m); err != nil {
			t.Fatal(err)
		}
		if len(m.Attachments) != 1 {
			t.Fatalf("status %s shows %d attachments, want 1", a.device, len(m.Attachments))
		}
		s := m.Attachments[0].Attachment
		if s.Device != a.device || s.Driver != "fuse" || s.Image.Name != "film16384" || s.Image.Revision != 1 ||
			s.Image.Size != 16*mib || m.Attachments[0].PID != a.cmd.Process.Pid || m.Attachments[0].Group != "239.0.0.1:10810" {
			t.Errorf("status of %s: %+v", a.device, m.Attachments[0])
		}
		c, tr := s.Cache, s.Traffic
		for name, v := range map[string]*uint64{
			"hits": c.Hits, "misses": c.Misses, "replaced": c.Replaced, "read": tr.Read, "wanted": tr.Wanted, "overheard": tr.Overheard,
			"repaired": tr.Repaired, "duplicates": tr.Duplicates, "refused": tr.Refused, "kernel_drops": tr.Drops,
		} {
			if v == nil {
				t.Fatalf("status has no %s", name)
			}
		}
		if *tr.Read < 16*mib {
			t.Errorf("%d bytes were read, want at least the 16 MiB of the image", *tr.Read)
		}
		// All of it came once, and the tree with it: at the first client because it asked, at the second because it listened.
		if n := *tr.Wanted + *tr.Overheard; n < 16*mib || n > 17*mib {
			t.Errorf("%d bytes wanted and %d overheard, want the image's 16 MiB in all", *tr.Wanted, *tr.Overheard)
		}
		if i == 1 && *tr.Overheard < 15*mib {
			t.Errorf("the second client overheard %d bytes, want nearly all", *tr.Overheard)
		}
		if hits, misses := *c.Hits, *c.Misses; hits+misses < 256 || i == 1 && misses > hits/4 {
			t.Errorf("client %d: %d hits and %d misses, want one for each of 256 blocks and more, and few misses at the second",
				i+1, hits, misses)
		}
		if *tr.Refused > 0 || c.Used < 16*mib || c.Capacity < c.Used {
			t.Errorf("%d refused, cache of %d with %d", *tr.Refused, c.Capacity, c.Used)
		}
		share := 0.0
		for _, p := range s.Replicas {
			share += p.Share
			if p.State != "live" || p.Address == "" || i == 0 && p.RTT <= 0 {
				t.Errorf("replica %+v", p)
			}
		}
		if len(s.Replicas) != 2 || math.Abs(share-1) > 1e-6 {
			t.Errorf("%d replicas with shares of %v in all, want 2 and 1", len(s.Replicas), share)
		}
	}
	for i, s := range all.Servers {
		if len(s.Server.Links) != 1 || s.Server.Links[0].Interface != "eth0" || s.Server.Links[0].Clients == 0 ||
			len(s.Server.Images) != 1 || s.Server.Images[0].Name != "film16384" {
			t.Errorf("server %d: %+v", i, s)
		}
	}
}
