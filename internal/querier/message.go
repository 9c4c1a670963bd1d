package querier

import (
	"encoding/binary"
	"time"
)

// Messages and their fields, in bytes from their start.
const (
	igmpQuery   = 0x11 // RFC 9776 section 4.1
	igmpLen     = 12
	igmpOldLen  = 8   // of IGMPv1 and IGMPv2 (RFC 1112, RFC 2236)
	igmpFlags   = 8   // reserved, S, robustness; then the interval's code, and the number of sources
	mldQuery    = 130 // RFC 9777 section 5.1
	mldLen      = 28
	mldOldLen   = 24 // of MLDv1 (RFC 2710)
	mldFlags    = 24
	sourceLen4  = 4
	sourceLen6  = 16
	tenthSecond = 100 * time.Millisecond // unit of IGMP's time for answers; MLD's is the millisecond
)

// appendIGMP appends a general query.
func (t timing) appendIGMP(b []byte) []byte {
	m := [igmpLen]byte{igmpQuery, byte(t.response / tenthSecond)}
	m[igmpFlags], m[igmpFlags+1] = byte(t.robustness), byte(t.interval/time.Second)
	binary.BigEndian.PutUint16(m[2:], checksum(m[:]))
	return append(b, m[:]...)
}

// appendMLD appends a general query, whose checksum the kernel computes.
func (t timing) appendMLD(b []byte) []byte {
	m := [mldLen]byte{mldQuery}
	binary.BigEndian.PutUint16(m[4:], uint16(t.response/time.Millisecond))
	m[mldFlags], m[mldFlags+1] = byte(t.robustness), byte(t.interval/time.Second)
	return append(b, m[:]...)
}

// parseIGMP returns what a query says, of any version and about any group, or false for what is no query.
func parseIGMP(b []byte) (timing, bool) {
	if len(b) < igmpOldLen || b[0] != igmpQuery || checksum(b) != 0 {
		return timing{}, false
	}
	if len(b) == igmpOldLen { // IGMPv1 says nothing of the time for answers, which is this
		t := timing{DefaultInterval, time.Duration(b[1]) * tenthSecond, defaultRobustness}
		if t.response == 0 {
			t.response = maxResponse
		}
		return t, true
	}
	if len(b) < igmpLen {
		return timing{}, false
	}
	return parseFlags(b[igmpFlags:], sourceLen4, float8(b[1])*tenthSecond)
}

// parseMLD is parseIGMP for MLD. The kernel has checked the checksum.
func parseMLD(b []byte) (timing, bool) {
	if len(b) < mldOldLen || b[0] != mldQuery || b[1] != 0 {
		return timing{}, false
	}
	code := binary.BigEndian.Uint16(b[4:])
	if len(b) == mldOldLen {
		return timing{DefaultInterval, time.Duration(code) * time.Millisecond, defaultRobustness}, true
	}
	if len(b) < mldLen {
		return timing{}, false
	}
	return parseFlags(b[mldFlags:], sourceLen6, float16(code)*time.Millisecond)
}

// parseFlags reads what IGMPv3 and MLDv2 have in common, before the sources.
func parseFlags(b []byte, sourceLen int, response time.Duration) (timing, bool) {
	if len(b) < 4+sourceLen*int(binary.BigEndian.Uint16(b[2:])) {
		return timing{}, false
	}
	t := timing{float8(b[1]) * time.Second, response, int(b[0] & 7)}
	if t.interval == 0 {
		t.interval = DefaultInterval
	}
	if t.robustness == 0 {
		t.robustness = defaultRobustness
	}
	return t, true
}

// float8 decodes the small floating-point numbers of times (RFC 9776 section 4.1.1).
func float8(code byte) time.Duration {
	if code < 0x80 {
		return time.Duration(code)
	}
	return time.Duration(code&0x0f|0x10) << (code>>4&7 + 3)
}

// float16 decodes the larger ones (RFC 9777 section 5.1.3).
func float16(code uint16) time.Duration {
	if code < 0x8000 {
		return time.Duration(code)
	}
	return time.Duration(code&0x0fff|0x1000) << (code>>12&7 + 3)
}

// checksum is the Internet's (RFC 1071). Of a message that has it inside it is 0.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
