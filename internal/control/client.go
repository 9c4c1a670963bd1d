package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// statusTime is how long a process may take to say what it is doing: one that is stopped never says it.
	statusTime = 2 * time.Second
	// askTries is how often a process is asked that breaks off. One that is just being killed does so once or twice.
	askTries = 8
)

// Process is a running dnbd as its control socket shows it.
type Process struct {
	// Name is that of the socket, without its directory and suffix.
	Name string
	// Path is the socket.
	Path string
	// Status is what the process was doing when it was asked.
	Status Status
	// Err is why there is no Status: the process did not answer, or in another version of the API.
	Err error
}

// List asks every process that has a control socket in Dir what it is doing, all at once, and returns them by name. It
// also returns the paths of sockets whose process is gone.
func List(ctx context.Context) (live []*Process, dead []string, err error) {
	paths, err := sockets(Dir())
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, path := range paths {
		wg.Go(func() {
			p, err := Ask(ctx, path)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				live = append(live, p)
			case errors.Is(err, syscall.ECONNREFUSED):
				dead = append(dead, path)
			}
			// What is left is a socket that was removed since it was listed.
		})
	}
	wg.Wait()
	slices.SortFunc(live, func(a, b *Process) int { return cmp.Compare(a.Name, b.Name) })
	slices.Sort(dead)
	return live, dead, nil
}

// Ask asks the process at a control socket what it is doing. The error wraps fs.ErrNotExist when there is no such socket and
// syscall.ECONNREFUSED when its process is gone; that a live process does not answer is in the Process.
func Ask(ctx context.Context, path string) (*Process, error) {
	p := &Process{Name: strings.TrimSuffix(filepath.Base(path), suffix), Path: path}
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	for range askTries {
		p.Err = p.do(ctx, http.MethodGet, "/status", nil, &p.Status)
		if !brokenOff(p.Err) {
			break
		}
	}
	switch {
	case errors.Is(p.Err, fs.ErrNotExist), errors.Is(p.Err, syscall.ECONNREFUSED):
		return nil, p.Err
	case errors.Is(p.Err, context.DeadlineExceeded), errors.Is(p.Err, syscall.EAGAIN):
		p.Err = fmt.Errorf("the process at %s does not answer; it may be stopped", path)
	case p.Err == nil && p.Status.API != API:
		p.Err = fmt.Errorf("the process at %s speaks version %d of the control API, this one speaks %d: %w",
			path, p.Status.API, API, ErrAPI)
	}
	return p, nil
}

// errNoAnswer: the request was not answered, or not to its end.
var errNoAnswer = errors.New("no answer")

// brokenOff says whether a process ended before it had answered. Asked again, its socket is seen to be nobody's.
func brokenOff(err error) bool {
	if !errors.Is(err, errNoAnswer) {
		return false
	}
	for _, known := range []error{
		context.DeadlineExceeded, context.Canceled, fs.ErrNotExist, syscall.ECONNREFUSED, syscall.EAGAIN,
	} {
		if errors.Is(err, known) {
			return false
		}
	}
	return true
}

// Find returns the process that has the control socket called name. The error wraps fs.ErrNotExist when there is none and
// syscall.ECONNREFUSED when it is gone.
func Find(ctx context.Context, name string) (*Process, error) {
	return Ask(ctx, Path(name))
}

// Detach tells the process to end its attachment, and waits until the process is gone.
func (p *Process) Detach(ctx context.Context) error { return p.leave(ctx, "/detach") }

// Force is Detach for an attachment that is in use or hung.
func (p *Process) Force(ctx context.Context) error { return p.leave(ctx, "/force") }

// Set tells the process to change its attachment's time limits.
func (p *Process) Set(ctx context.Context, r Set) error {
	return p.do(ctx, http.MethodPost, "/set", r, nil)
}

// leave sends a request after which the process ends, and waits until it is gone.
func (p *Process) leave(ctx context.Context, url string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := p.request(ctx, http.MethodGet, "/wait", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := p.do(ctx, http.MethodPost, url, nil, nil); err != nil {
		return err
	}
	// It ends with an error, as the process goes without saying so.
	_, _ = io.Copy(io.Discard, resp.Body)
	return ctx.Err()
}

// AddCache tells the process to add a cache to its attachment.
func (p *Process) AddCache(ctx context.Context, r AddCache) error {
	return p.do(ctx, http.MethodPost, "/cache", r, nil)
}

// do sends a request with in as its body, if that is not nil, and reads the answer to out, if that is not nil.
func (p *Process) do(ctx context.Context, method, url string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
	}
	resp, err := p.request(ctx, method, url, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("%w from the process at %s: %w", errNoAnswer, p.Path, err)
	}
	if resp.StatusCode >= 300 {
		var f failure
		if json.Unmarshal(answer, &f) != nil || f.Error == "" {
			return fmt.Errorf("the process at %s answers %s", p.Path, resp.Status)
		}
		return errors.New(f.Error)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read the answer of the process at %s: %w", p.Path, err)
	}
	return nil
}

// request sends a request on a connection of its own, which the answer's body closes.
func (p *Process) request(ctx context.Context, method, url string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://dnbd"+url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	resp, err := (&http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", p.Path) },
	}).RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("%w from the process at %s: %w", errNoAnswer, p.Path, err)
	}
	return resp, nil
}

// Remove removes the control socket at path if its process is gone. One that a new process has taken meanwhile stays.
func Remove(path string) error {
	return locked(filepath.Dir(path), func() error {
		alive, err := listening(path)
		if err != nil || alive {
			return err
		}
		err = os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// listening says whether a process listens at path. A path that is not there is nobody's.
func listening(path string) (bool, error) {
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		return true, conn.Close()
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return false, nil
	case errors.Is(err, syscall.EAGAIN): // its queue is full: it is alive
		return true, nil
	}
	return false, err
}
