package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// The bounds of what the network can take of this machine.
const (
	// maxConnections is how many machines are served over HTTP at once; others wait.
	maxConnections = 512
	// maxDownload is how long one file may take: 100 MB at 2 Mbit/s.
	maxDownload = 7 * time.Minute
)

// serveHTTP answers requests until the context ends.
func (s *Server) serveHTTP(ctx context.Context) error {
	web := &http.Server{
		Handler:           http.HandlerFunc(s.download),
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      maxDownload,
		IdleTimeout:       10 * time.Second,
		MaxHeaderBytes:    16 << 10,
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		web.Close()
	})
	err := web.Serve(netutil.LimitListener(s.http, maxConnections))
	if !stop() {
		<-closed
	}
	if ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

// download answers one request.
func (s *Server) download(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are answered", http.StatusMethodNotAllowed)
		return
	}
	f, changed, err := s.files.open(r.URL.Path)
	if err != nil {
		s.refused("HTTP", r.RemoteAddr, err)
		status := http.StatusNotFound
		if !errors.Is(err, fs.ErrNotExist) {
			status = http.StatusInternalServerError
		}
		http.Error(w, "there is no such file here", status)
		return
	}
	defer f.Close()
	s.log.Info("sending", "file", r.URL.Path, "to", r.RemoteAddr, "by", "HTTP")
	w.Header().Set("Content-Type", "application/octet-stream") // not to be guessed
	http.ServeContent(w, r, "", changed, f)
}

// refused tells of a request for something that cannot be sent. What nobody offers is only of interest to who looks for a fault.
func (s *Server) refused(by, to string, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		s.log.Debug("refused", "to", to, "by", by, "error", err)
		return
	}
	s.log.Warn("refused", "to", to, "by", by, "error", err)
}
