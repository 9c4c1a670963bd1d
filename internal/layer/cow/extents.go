package cow

import "context"

// Extents implements block.Mapper: the base's where it shows, the scratch's elsewhere. Neighbours that are alike are one
// extent.
func (d *Device) Extents(ctx context.Context, off, n int64, yield func(n int64, hole, zero bool) bool) error {
	if err := d.check(ctx, off, n); err != nil {
		return err
	}
	m := merger{yield: yield}
	for n > 0 && !m.stopped {
		overlay, run := d.run(off, n)
		from := d.base
		if overlay {
			from = d.scratch
		}
		left := run
		err := from.Extents(ctx, off, run, func(n int64, hole, zero bool) bool {
			n = min(n, left)
			left -= n
			return m.add(n, hole, zero) && left > 0
		})
		if err != nil {
			return err
		}
		off, n = off+run, n-run
	}
	m.finish()
	return nil
}

// merger yields extents when it is known how far they go.
type merger struct {
	yield      func(n int64, hole, zero bool) bool
	n          int64
	hole, zero bool
	stopped    bool
}

// add takes in the next n bytes, and returns whether there may be more.
func (m *merger) add(n int64, hole, zero bool) bool {
	if m.n > 0 && (hole != m.hole || zero != m.zero) {
		m.finish()
	}
	m.n, m.hole, m.zero = m.n+n, hole, zero
	return !m.stopped
}

// finish yields what was taken in.
func (m *merger) finish() {
	if m.n > 0 && !m.stopped {
		m.stopped = !m.yield(m.n, m.hole, m.zero)
	}
	m.n = 0
}
