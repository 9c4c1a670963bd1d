package nbd

import "sync/atomic"

// Stats is what a server has done since it was made.
type Stats struct {
	Connections int64 // open now
	Accepted    int64 // connections, since the start
	Requests    int64 // answered
	Failed      int64 // of these, answered with an error
	Bytes       int64 // that were read
	Written     int64 // bytes
}

// counters are the running numbers behind Stats.
type counters struct {
	connections, accepted, requests, failed, bytes, written atomic.Int64
	busy                                                    atomic.Int64 // connections that had requests a moment ago: those that are watched
}

// add counts the answer to r, which is the error errno or 0.
func (c *counters) add(r *request, errno uint32) {
	c.requests.Add(1)
	switch {
	case errno != 0:
		c.failed.Add(1)
	case r.command == cmdRead:
		c.bytes.Add(int64(r.length))
	case r.command == cmdWrite:
		c.written.Add(int64(r.length))
	}
}

// Stats returns what the server has done. The numbers are read one after the other while it goes on.
func (s *Server) Stats() Stats {
	return Stats{
		Connections: s.count.connections.Load(),
		Accepted:    s.count.accepted.Load(),
		Requests:    s.count.requests.Load(),
		Failed:      s.count.failed.Load(),
		Bytes:       s.count.bytes.Load(),
		Written:     s.count.written.Load(),
	}
}
