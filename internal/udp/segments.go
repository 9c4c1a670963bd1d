package udp

const (
	// maxSegments is how many datagrams one GSO send may have: UDP_MAX_SEGMENTS was 64 when GSO came (Linux 4.18) and is 128
	// in later kernels. One sendmmsg carries as many.
	maxSegments = 64
	// maxTrain is the most bytes that one GSO send may have: it is made as one IPv4 packet (65535 less 20 and 8 of headers).
	maxTrain = 65507
)

// Segments is a train of datagrams to send. Build one, fill it, send it, Reset it and use it again; it keeps its
// memory. It holds the slices that were added, not copies: leave their bytes alone until SendSegments has returned.
type Segments struct {
	datagrams []datagram
	bytes     int
}

// datagram is one datagram in two pieces, so that a header goes before a payload that stays where it is.
type datagram struct{ header, payload []byte }

func (d datagram) size() int { return len(d.header) + len(d.payload) }

// Add appends a datagram: header, then payload; either may be empty.
//
// Datagrams of equal size that follow each other are what makes a train fast; the last of such a run may be shorter.
func (s *Segments) Add(header, payload []byte) {
	s.datagrams = append(s.datagrams, datagram{header, payload})
	s.bytes += len(header) + len(payload)
}

// Len is the number of datagrams added since Reset.
func (s *Segments) Len() int { return len(s.datagrams) }

// Bytes is the sum of their sizes, without the headers of UDP and below.
func (s *Segments) Bytes() int { return s.bytes }

// Reset empties the train and lets go of what it held.
func (s *Segments) Reset() {
	clear(s.datagrams)
	s.datagrams = s.datagrams[:0]
	s.bytes = 0
}

// run returns how many datagrams at the head of ds one GSO send can carry: all of the first one's size, except that the
// last may be shorter. short reports whether it is. The run of a non-empty ds is 1 or more.
func run(ds []datagram) (n int, short bool) {
	size := ds[0].size()
	total := size
	for n = 1; n < min(len(ds), maxSegments); n++ {
		next := ds[n].size()
		if next == 0 || next > size || total+next > maxTrain {
			return n, false
		}
		total += next
		if next < size {
			return n + 1, true
		}
	}
	return n, false
}
