package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// defaultHandshakeTimeout is ample for a client on any link; a person who types options into nbdsh sets another.
	defaultHandshakeTimeout = 30 * time.Second
	// defaultGrace is for the requests under way when the server ends: longer than a disk takes, shorter than service managers
	// wait before they kill.
	defaultGrace = 5 * time.Second
	// defaultMaxConns keeps the memory of all connections within what one machine has, and their number below the usual
	// limit of open files.
	defaultMaxConns = 512
	// readAhead is the size of the read buffer of a connection in transmission: room for all requests that it has under way,
	// and for a dozen small writes.
	readAhead = 64 << 10
	// maxAcceptPause is the longest pause after accepting failed for want of descriptors or memory.
	maxAcceptPause = time.Second
)

// ServerConfig is how a Server is to work. Only Exports need be given.
type ServerConfig struct {
	// Exports are what clients can ask for. The first is the default one, unless another has the empty name.
	Exports []Export
	// NoList refuses clients that ask which exports there are.
	NoList bool
	// Log gets a line for each connection that ends badly, at level warn, and for each beginning and end, at level debug.
	// nil means none.
	Log *slog.Logger
	// HandshakeTimeout is how long a client may be silent before it has chosen an export. 0 means 30 s.
	HandshakeTimeout time.Duration
	// IdleTimeout is how long a client may be silent later, and how long it may leave replies where they are: a client that
	// has no requests under way, or takes none of its replies, is hung up on. 0 means for ever.
	IdleTimeout time.Duration
	// TLSMode is when TLS is used, and TLS how: its certificates, and whether clients must have one (ClientAuth). Off, TLS is
	// not looked at; otherwise it must be there. DynamicRecordSizingDisabled saves some calls: who has a part of a reply has
	// to wait for the rest.
	TLSMode TLSMode
	TLS     *tls.Config
	// Accept, if it is not nil, is asked about each client before it is talked to. When it returns an error, which is logged,
	// the client is hung up on. It must not wait.
	Accept func(client net.Addr) error
	// Grace is how long the requests under way may take to complete when Serve's context ends, or a client disconnects. 0 means
	// 5 s. What has not completed by then is answered ESHUTDOWN.
	Grace time.Duration
	// MaxConns is how many connections are served at once, over all listeners. Further ones are closed at once. 0 means 512.
	MaxConns int
}

// Server serves exports to NBD clients on any number of listeners.
type Server struct {
	config  ServerConfig
	log     *slog.Logger
	exports exports
	stock   buffers
	count   counters
}

// NewServer returns a server. The error names the export that cannot be served, and why.
func NewServer(config ServerConfig) (*Server, error) {
	if config.HandshakeTimeout == 0 {
		config.HandshakeTimeout = defaultHandshakeTimeout
	}
	if config.Grace == 0 {
		config.Grace = defaultGrace
	}
	if config.MaxConns == 0 {
		config.MaxConns = defaultMaxConns
	}
	if config.TLSMode != TLSOff && config.TLS == nil {
		return nil, errors.New("TLS is on, but there is no configuration for it")
	}
	s := &Server{config: config, log: config.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.SetExports(config.Exports); err != nil {
		return nil, err
	}
	return s, nil
}

// SetExports replaces the exports that clients can ask for. Clients that have chosen one keep it. On error, which names the
// export that cannot be served, nothing changes.
func (s *Server) SetExports(list []Export) error { return s.exports.set(list) }

// Serve serves the clients that connect to l until ctx ends or l fails. Then it closes l, gives the requests under way the
// time to complete that the server's configuration says, and returns when the last connection and goroutine is gone. The
// error is nil when ctx ended. It may be called for several listeners at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	closed := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		_ = l.Close()
		close(closed)
	})
	defer wg.Wait()
	defer cancel()

	var pause time.Duration
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.start(ctx, &wg, conn)
		case ctx.Err() != nil:
			return nil
		case passing(err):
			pause = min(max(2*pause, 5*time.Millisecond), maxAcceptPause)
			s.log.Warn("cannot accept NBD connections for now", "listener", l.Addr(), "err", err)
			select {
			case <-time.After(pause):
			case <-closed:
			}
		default:
			return fmt.Errorf("accept NBD connections on %s: %w", l.Addr(), err)
		}
	}
}

// passing says whether accepting may succeed later.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// start serves conn on a goroutine of wg, or closes it when there are too many.
func (s *Server) start(ctx context.Context, wg *sync.WaitGroup, conn net.Conn) {
	s.count.accepted.Add(1)
	if s.count.connections.Add(1) > int64(s.config.MaxConns) {
		s.count.connections.Add(-1)
		s.log.Warn("NBD client turned away, there are too many", "client", conn.RemoteAddr(), "limit", s.config.MaxConns)
		_ = conn.Close()
		return
	}
	if s.config.Accept != nil {
		if err := s.config.Accept(conn.RemoteAddr()); err != nil {
			s.count.connections.Add(-1)
			s.log.Warn("NBD client turned away", "client", conn.RemoteAddr(), "err", err)
			_ = conn.Close()
			return
		}
	}
	wg.Go(func() {
		defer s.count.connections.Add(-1)
		defer conn.Close()
		log := s.log.With("client", conn.RemoteAddr())
		switch err := s.serve(ctx, conn, log); {
		case err == nil || ctx.Err() != nil:
			log.Debug("NBD client gone")
		default:
			log.Warn("NBD client lost", "err", err)
		}
	})
}

// serve talks to one client from its first byte to its last.
func (s *Server) serve(ctx context.Context, conn net.Conn, log *slog.Logger) error {
	// What Open makes lives as long as the connection, which may outlive ctx by the grace for its last requests.
	lifetime, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	stop := context.AfterFunc(ctx, func() {
		end()
		_ = conn.Close()
	})
	defer stop()
	r := bufio.NewReader(conn) // a small one: who only shakes hands does not get what a transmission needs
	client := conn             // as it is talked to: with TLS at some time, perhaps
	n := &negotiation{
		exports: &s.exports, noList: s.config.NoList, r: r, w: conn, tls: s.config.TLSMode,
		waiting: func() error { return conn.SetDeadline(time.Now().Add(s.config.HandshakeTimeout)) },
		upgrade: func() (*bufio.Reader, io.Writer, error) {
			secure, err := newTLSConn(ctx, conn, s.config.TLS)
			if err != nil {
				return nil, nil, err
			}
			client = secure
			r.Reset(secure)
			return r, secure, nil
		},
		ctx: lifetime, client: conn.RemoteAddr(), log: log,
	}
	defer n.close()
	session, err := n.run()
	if errors.Is(err, errAborted) {
		_ = client.Close() // says goodbye where there is TLS
		return nil
	}
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return fmt.Errorf("start transmission: %w", err)
	}
	log.Debug("NBD client served", "export", session.export.Name)

	if !stop() {
		return nil // ctx ended, and conn was closed
	}
	ahead, _ := r.Peek(r.Buffered())
	client = thread(client, &s.count)
	t := newTransmission(context.WithoutCancel(ctx), session, client, ahead, s)
	defer context.AfterFunc(ctx, t.stop)()
	err = t.run(s.config.Grace)
	_ = client.Close()
	return err
}
