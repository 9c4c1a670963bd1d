package nbd

import (
	"fmt"
	"slices"
	"testing"
)

// The tests in this file are of mistakes that other servers make.

func TestAReadPastTheEndIsAnsweredWithAnError(t *testing.T) {
	for _, style := range styles {
		n := device(t, newDisk(1000), style)
		for _, c := range [][2]uint64{{999, 2}, {1000, 1}, {1 << 63, 512}, {1<<64 - 1, 1}} {
			if a := n.request(0, cmdRead, c[0], c[1]); a.errno != errInvalid || a.data != nil {
				t.Errorf("style %d, %d bytes at %d: %+v", style, c[1], c[0], a)
			}
		}
	}
}

func TestAWritePastTheEndChangesNothing(t *testing.T) {
	for _, style := range styles {
		d := newDisk(1000)
		n := device(t, d, style)
		for _, c := range [][2]uint64{{999, 2}, {1000, 1}, {1 << 63, 512}} {
			if a := n.request(0, cmdWrite, c[0], c[1]); a.errno != errNoSpace {
				t.Errorf("style %d, %d bytes at %d: %+v", style, c[1], c[0], a)
			}
		}
		if d.last() != "" || len(n.get(999, 1)) != 1 {
			t.Errorf("style %d: the device got %q", style, d.last())
		}
	}
}

func TestFUAIsNotIgnored(t *testing.T) {
	d := newDisk(page)
	n := device(t, d, styleSimple)
	for command, want := range map[uint16]string{
		cmdWrite:       "write 8 at 0 fua true",
		cmdTrim:        "trim 8 at 0 fua true",
		cmdWriteZeroes: "zero 8 at 0 hole true fast false fua true",
	} {
		if a := n.request(cmdFlagFUA, command, 0, 8); a.errno != 0 || d.last() != want {
			t.Errorf("command %d: %+v; the device got %q", command, a, d.last())
		}
	}
}

func TestTrimAndZeroesNeverHangTheConnection(t *testing.T) {
	for name, d := range map[string]Device{"that can": newDisk(page), "that cannot": plain{newDisk(page)}, "read-only": pattern(page)} {
		for _, style := range styles {
			n := device(t, d, style)
			for _, command := range []uint16{cmdTrim, cmdWriteZeroes} {
				for _, length := range []uint64{0, 1, page, page + 1, 1<<32 - 1} {
					n.request(0, command, 0, length)
				}
			}
			n.get(0, 1)
			t.Logf("a device %s, style %d", name, style)
		}
	}
}

func TestAFlushCoversAllConnections(t *testing.T) {
	d := newDisk(page)
	s := serve(t, ServerConfig{Exports: []Export{{Device: d}}}, listen(t, "unix"))
	one, other := dial(t, s.addr).chosen(styleSimple), dial(t, s.addr).chosen(styleStructured)
	one.put(0, "written")
	a := other.request(0, cmdFlush, 0, 0)
	if log := d.log(); a.errno != 0 || !slices.Equal(log, []string{"write 7 at 0 fua false", "flush"}) {
		t.Errorf("%+v; the device got %q", a, log)
	}
	if got := other.get(0, 7); got != "written" {
		t.Errorf("the other connection reads %q", got)
	}
}

func TestINFOTellsTheSize(t *testing.T) {
	for _, size := range []int64{0, 1, 1<<32 + 1, 1<<63 - 1} {
		s := serve(t, ServerConfig{Exports: []Export{{Device: pattern(size)}}}, listen(t, "unix"))
		for _, option := range []uint32{optInfo, optGo} {
			r := dial(t, s.addr).greet(flagFixedNewstyle).option(option, infoData(""))
			if want := fmt.Sprintf("\x00\x00%s", bigEndian(uint64(size))); r[0].data[:10] != want {
				t.Errorf("option %d, %d bytes: %q", option, size, r[0].data)
			}
		}
	}
}

// bigEndian is n as 8 bytes.
func bigEndian(n uint64) string {
	var b [8]byte
	for i := range b {
		b[i] = byte(n >> (56 - 8*i))
	}
	return string(b[:])
}

func TestDFIsHonouredUpToTheLargestRead(t *testing.T) {
	for _, style := range styles[1:] {
		n := device(t, newDisk(maxPayload), style)
		for _, length := range []uint64{1, 65536, maxPayload} {
			if a := n.request(cmdFlagDF, cmdRead, 0, length); a.errno != 0 || a.hole || len(a.data) != int(length) {
				t.Errorf("style %d: %d bytes: error %d, hole %v, %d bytes", style, length, a.errno, a.hole, len(a.data))
			}
		}
	}
}

func TestAFlagThatWasNotOfferedFailsAlone(t *testing.T) {
	for _, style := range styles {
		n := device(t, newDisk(page), style)
		for _, command := range []uint16{cmdRead, cmdWrite, cmdTrim, cmdCache, cmdWriteZeroes, cmdFlush} {
			for _, flag := range []uint16{1 << 6, 1 << 15} {
				length := uint64(8)
				if command == cmdFlush {
					length = 0
				}
				if a := n.request(flag, command, 0, length); a.errno != errInvalid {
					t.Errorf("style %d, command %d, flag 0x%x: %+v", style, command, flag, a)
				}
			}
		}
		n.put(0, "and on")
	}
}

func TestAnOptionOf64MiBIsHungUpOn(t *testing.T) {
	n := negotiating(t)
	n.write(optionBytes(optInfo, nil)[:12])
	n.write([]byte{4, 0, 0, 0})
	n.closed()
}

func TestAWriteOf32MiBIsNothingSpecial(t *testing.T) {
	for _, style := range styles {
		n := device(t, newDisk(32<<20), style)
		if a := n.request(0, cmdWrite, 0, 32<<20); a.errno != 0 {
			t.Errorf("style %d: %+v", style, a)
		}
	}
}

func TestOversizeRequestsFailAlone(t *testing.T) {
	for _, style := range styles {
		n := device(t, plain{newDisk(maxPayload + 2)}, style)
		for _, command := range []uint16{cmdRead, cmdWrite} {
			if a := n.request(0, command, 0, maxPayload+1); a.errno != errInvalid && a.errno != errOverflow {
				t.Errorf("style %d, command %d: %+v", style, command, a)
			}
		}
		n.put(0, "and on")
	}
}

func TestLISTOfManyExportsIsWellFormed(t *testing.T) {
	var list []Export
	for i := range 300 {
		list = append(list, Export{Name: fmt.Sprintf("disk %d", i), Description: "one of many", Device: pattern(i)})
	}
	r := dial(t, serve(t, ServerConfig{Exports: list}, listen(t, "unix")).addr).greet(flagFixedNewstyle).option(optList, nil)
	if len(r) != 301 || r[300] != (optReply{repAck, ""}) {
		t.Fatalf("%d replies", len(r))
	}
	for i, x := range list {
		if want := "\x00\x00\x00" + string(rune(len(x.Name))) + x.Name + x.Description; r[i] != (optReply{repServer, want}) {
			t.Errorf("reply %d: %+v", i, r[i])
		}
	}
}
