package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

const (
	// maxBody bounds what a request or an answer may hold: more than any status of a thousand images.
	maxBody = 16 << 20
	// closeTime is how long Close waits for answers under way.
	closeTime = 2 * time.Second
)

// Service answers at the control socket of this process.
type Service struct {
	path    string
	handler Handler
	http    http.Server
	done    sync.WaitGroup
	once    sync.Once
	err     error

	mu      sync.Mutex // guards waiting
	waiting []net.Conn // of those who wait for the process to end; held, so that they are not collected and closed
}

// Listen takes the control socket called name in Dir, which it makes if it is missing, and answers requests with h until
// Close. The socket of a process that was killed is taken over. The error wraps ErrTaken when a live process has it.
func Listen(name string, h Handler) (*Service, error) {
	dir, err := MakeDir()
	if err != nil {
		return nil, err
	}
	s := &Service{path: filepath.Join(dir, name+suffix), handler: h}
	var l net.Listener
	err = locked(dir, func() error {
		l, err = bind(s.path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", s.path, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("GET /wait", s.wait)
	mux.HandleFunc("POST /detach", s.detach)
	mux.HandleFunc("POST /cache", s.addCache)
	mux.HandleFunc("POST /force", s.force)
	mux.HandleFunc("POST /set", s.set)
	s.http.Handler = mux
	s.http.ErrorLog = slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)
	s.done.Go(func() { _ = s.http.Serve(l) }) // it ends when Close closes l
	return s, nil
}

// bind makes a socket that listens before it is seen at path. The directory is locked.
func bind(path string) (net.Listener, error) {
	alive, err := listening(path)
	if err != nil {
		return nil, err
	}
	if alive {
		return nil, ErrTaken
	}
	temporary := path + "." + strconv.Itoa(os.Getpid())
	_ = os.Remove(temporary) // of an earlier process of this number
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(temporary, 0o600); err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(temporary))
	}
	return l, nil
}

// Path is where the socket is.
func (s *Service) Path() string { return s.path }

// Close removes the socket after the answers under way were given, other than to those who wait for the process to end.
// A second Close does nothing and returns what the first did.
func (s *Service) Close() error {
	s.once.Do(func() {
		s.err = locked(filepath.Dir(s.path), func() error { return os.Remove(s.path) })
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		if err := s.http.Shutdown(ctx); err != nil {
			s.err = errors.Join(s.err, s.http.Close())
		}
		s.done.Wait()
	})
	return s.err
}

func (s *Service) status(w http.ResponseWriter, _ *http.Request) {
	st := s.handler.Status()
	st.API, st.PID, st.Socket = API, os.Getpid(), s.path
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(st) // it fails when the other side is gone, who needs no answer then
}

// wait leaves the connection open. The kernel closes it when it has taken the process down.
func (s *Service) wait(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", strconv.Itoa(maxBody)) // never sent: the connection breaks before
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if rc.Flush() != nil {
		return
	}
	// A hijacked connection is not closed by Close.
	if conn, _, err := rc.Hijack(); err == nil {
		s.mu.Lock()
		s.waiting = append(s.waiting, conn)
		s.mu.Unlock()
	}
}

func (s *Service) detach(w http.ResponseWriter, r *http.Request) {
	if s.handler.Detach == nil {
		fail(w, http.StatusNotFound, errors.New("this process has no attachment"))
		return
	}
	if err := s.handler.Detach(r.Context()); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Service) addCache(w http.ResponseWriter, r *http.Request) {
	if s.handler.AddCache == nil {
		fail(w, http.StatusNotFound, errors.New("this process has no attachment"))
		return
	}
	var req AddCache
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return
	}
	if !filepath.IsAbs(req.File) || req.Size < 0 {
		fail(w, http.StatusBadRequest, fmt.Errorf("cache file %q of %d bytes: want an absolute path and a size", req.File, req.Size))
		return
	}
	if err := s.handler.AddCache(r.Context(), req); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Service) force(w http.ResponseWriter, r *http.Request) {
	if s.handler.Force == nil {
		fail(w, http.StatusNotFound, errors.New("this process has no attachment that can be released by force"))
		return
	}
	if err := s.handler.Force(r.Context()); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Service) set(w http.ResponseWriter, r *http.Request) {
	if s.handler.Set == nil {
		fail(w, http.StatusNotFound, errors.New("this process has no attachment with time limits"))
		return
	}
	var req Set
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return
	}
	if req.Timeout < 0 || req.IOTimeout < 0 || req == (Set{}) {
		fail(w, http.StatusBadRequest, fmt.Errorf("time limits of %v and %v: want positive ones", req.Timeout, req.IOTimeout))
		return
	}
	if err := s.handler.Set(r.Context(), req); err != nil {
		fail(w, http.StatusConflict, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// fail answers a request that failed.
func fail(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(failure{Error: err.Error()})
}
