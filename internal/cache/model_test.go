package cache

import (
	"bytes"
	"path/filepath"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// checkInvariants checks that the index, the queues and the counters of an idle cache tell the same story.
func checkInvariants(t interface {
	Helper()
	Errorf(string, ...any)
}, c *Cache,
) {
	t.Helper()
	seen := make([]bool, len(c.slots))
	walk := func(name string, l *list, ok func(*slot) bool) {
		n, prev := 0, ref(0)
		for r := l.head; r != 0 && n <= len(c.slots); r = c.slots[r-1].next {
			s := &c.slots[r-1]
			if s.prev != prev || seen[r-1] || !ok(s) {
				t.Errorf("%s: slot %d is out of place: %+v", name, r-1, s)
			}
			seen[r-1] = true
			prev = r
			n++
		}
		if n != l.n || l.tail != prev {
			t.Errorf("%s: has %d slots, counts %d", name, n, l.n)
		}
	}
	walk("free", &c.free, func(s *slot) bool { return s.state == empty })
	walk("probation", &c.probation, func(s *slot) bool { return s.state == live && s.reads == 0 })
	walk("main", &c.main, func(s *slot) bool { return s.state == live && s.reads > 0 })
	used, size := 0, int64(0)
	for i := range c.slots {
		s := &c.slots[i]
		if seen[i] != (uint32(i) < c.fresh) || s.pins.Load() != 0 {
			t.Errorf("slot %d of %d used so far is in a list: %v, pins %d", i, c.fresh, seen[i], s.pins.Load())
		}
		if s.state != live {
			continue
		}
		used++
		size += int64(s.length)
		if at, found := c.find(&s.key); !found || at != uint32(i) {
			t.Errorf("slot %d is not found by its key", i)
		}
	}
	chained := 0
	for _, r := range c.heads {
		for ; r != 0; r = c.slots[r-1].chain {
			chained++
		}
	}
	if st := c.Stats(); st.Used != used || st.Bytes != size || chained != used {
		t.Errorf("%d entries of %d bytes, %d in the index, counted %+v", used, size, chained, st)
	}
}

// TestACacheGivesWhatWasPutOrNothing compares a cache under any sequence of calls and restarts with a map.
func TestACacheGivesWhatWasPutOrNothing(t *testing.T) {
	for _, name := range []string{"memory", "file"} {
		t.Run(name, func(t *testing.T) {
			dir, files := t.TempDir(), 0
			rapid.Check(t, func(t *rapid.T) {
				slots := rapid.IntRange(MinSlots, 30).Draw(t, "slots")
				files++ // a new one for each run
				path := filepath.Join(dir, strconv.Itoa(files))
				open := func() (c *Cache, err error) {
					if name == "memory" {
						return NewMemory(int64(slots)*MinSlotSize, MinSlotSize)
					}
					return Open(path, sizeFor(slots), MinSlotSize, nil)
				}
				c, err := open()
				if err != nil {
					t.Fatal(err)
				}
				defer func() { c.Close() }()
				ever := map[int]bool{} // put in the life of the file
				number := rapid.IntRange(0, 60)
				t.Repeat(map[string]func(*rapid.T){
					"": func(t *rapid.T) { checkInvariants(t, c) },
					"put": func(t *rapid.T) {
						n := number.Draw(t, "n")
						put(c, n, rapid.Bool().Draw(t, "snooped"))
						ever[n] = true
						if key, _ := block(n, MinSlotSize); !c.Has(key) {
							t.Fatalf("block %d was not kept", n)
						}
					},
					"get": func(t *rapid.T) {
						n := number.Draw(t, "n")
						key, data := block(n, MinSlotSize)
						off := rapid.IntRange(0, len(data)).Draw(t, "off")
						p := make([]byte, rapid.IntRange(0, len(data)-off).Draw(t, "len"))
						had := c.Has(key)
						got := c.Get(key, p, off)
						if got != had || got && (!ever[n] || !bytes.Equal(p, data[off:off+len(p)])) {
							t.Fatalf("block %d: Has %v, Get %v, ever put %v", n, had, got, ever[n])
						}
					},
					"restart": func(t *rapid.T) {
						before := c.Stats()
						if err := c.Close(); err != nil {
							t.Fatal(err)
						}
						var err error
						if c, err = open(); err != nil {
							t.Fatal(err)
						}
						if st := c.Stats(); name == "file" && (st.Used != before.Used || st.Bytes != before.Bytes) {
							t.Fatalf("before the restart %+v, after it %+v", before, st)
						}
					},
				})
			})
		})
	}
}
