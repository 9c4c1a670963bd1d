package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// maxOperators is how many connections there are at once, those of strangers that have not shown a certificate yet included.
	maxOperators = 64
	// operatorTime is how long each may take to show one, to say what it wants, and to want something else.
	operatorTime = 5 * time.Second
)

// ServeOperators takes operators' commands over HTTP with TLS on l, which it closes, until ctx ends. Whoever has a certificate that
// config accepts may command.
func (s *Server) ServeOperators(ctx context.Context, l net.Listener, config *tls.Config) error {
	if config.ClientAuth != tls.RequireAndVerifyClientCert {
		return errors.Join(errors.New("operators have to show a certificate"), l.Close())
	}
	web := &http.Server{
		Handler: s.operators(), ReadHeaderTimeout: operatorTime, IdleTimeout: operatorTime,
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	defer context.AfterFunc(ctx, func() { _ = web.Close() })()
	err := web.Serve(tls.NewListener(netutil.LimitListener(l, maxOperators), config))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// operators answers commands. A page in an operator's browser cannot give them.
func (s *Server) operators() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /"+wire.VerbStatus.String(), s.operator(wire.VerbStatus))
	for _, v := range []wire.Verb{wire.VerbReload, wire.VerbDrain, wire.VerbWithdraw} {
		mux.Handle("POST /"+v.String(), s.operator(v))
	}
	return http.NewCrossOriginProtection().Handler(mux)
}

// operator answers one command.
func (s *Server) operator(v wire.Verb) http.Handler {
	type outcome struct {
		text []byte
		err  error
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		image := r.URL.Query().Get("image")
		s.cfg.Log.Info("an operator's command", "from", r.RemoteAddr, "certificate", r.TLS.PeerCertificates[0].Subject, "verb", v, "image", image)
		done := make(chan outcome, 1)
		s.obey(v, image, func(text []byte, err error) { done <- outcome{text, err} })
		select {
		case o := <-done:
			if o.err != nil {
				http.Error(w, o.err.Error(), http.StatusConflict)
				return
			}
			_, _ = w.Write(o.text) // it fails when the operator is gone
		case <-r.Context().Done():
		}
	})
}
