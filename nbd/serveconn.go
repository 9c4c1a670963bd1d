package nbd

import (
	"context"
	"net"
)

// ServeConn serves the one client of conn, as a program does that inetd or a client itself started, until the client leaves
// or ctx ends as for Serve. It closes conn, and asks neither Accept nor MaxConns. The error is nil when the client left as
// the protocol wants it, or ctx ended.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	s.count.accepted.Add(1)
	s.count.connections.Add(1)
	defer s.count.connections.Add(-1)
	err := s.serve(ctx, conn, s.log.With("client", conn.RemoteAddr()))
	if ctx.Err() != nil {
		return nil
	}
	return err
}
