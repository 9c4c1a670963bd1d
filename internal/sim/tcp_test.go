package sim

import (
	"fmt"
	"testing"
	"time"
)

func TestTCPAloneFillsATrunk(t *testing.T) {
	for _, queue := range []time.Duration{5 * time.Millisecond, 50 * time.Millisecond} {
		t.Run(fmt.Sprint(queue), func(t *testing.T) {
			w := NewWorld(1)
			trunk := NewTrunk(100e6, queue)
			a := w.NewTCP(Link{Rate: 1e9, Delay: lan}, Link{Delay: lan, Trunk: trunk})
			if m := Mean(w.Course(trunk, 10*time.Second, time.Second, a)); m.TCP < 0.95*trunk.Rate || m.Group > 0.01*trunk.Rate {
				t.Errorf("alone %v", m)
			}
			b := w.NewTCP(Link{Rate: 1e9, Delay: lan}, Link{Delay: lan, Trunk: trunk})
			before := b.Delivered
			m := Mean(w.Course(trunk, 60*time.Second, time.Second, a, b))
			share := float64(b.Delivered-before) * 8 / 60 / trunk.Rate
			t.Logf("two flows %.3g bit/s, the second has %.2f of the trunk", m.TCP, share)
			if m.TCP < 0.95*trunk.Rate || share < 0.25 || share > 0.75 {
				t.Errorf("two flows share badly")
			}
		})
	}
}
