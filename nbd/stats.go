package nbd

import "sync/atomic"

// Stats is what a server has done since it was made.
type Stats struct {
	Connections int64 // open now
	Accepted    int64 // connections, since the start
	Requests    int64 // answered
	Failed      int64 // of these, answered with an error
	Bytes       int64 // of data in answers
}

// counters are the running numbers behind Stats.
type counters struct {
	connections, accepted, requests, failed, bytes atomic.Int64
}

// add counts the answer to r: errno, or its data where that is 0.
func (c *counters) add(r *request, errno uint32) {
	c.requests.Add(1)
	if errno != 0 {
		c.failed.Add(1)
	} else {
		c.bytes.Add(r.cost)
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
	}
}
