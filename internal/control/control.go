// Package control is the unix-socket API of a running dnbd: what it is doing, and the few things that it can be told.
//
// Each process that serves or attaches has one socket in Dir, of mode 0600, that speaks HTTP with JSON bodies:
//
//	GET  /status   a Status
//	GET  /wait     answers at once and ends when the process does
//	POST /detach   ends an attachment; no body either way
//	POST /cache    adds a cache to an attachment; the body is an AddCache
//	POST /force    ends an attachment that is in use or hung; no body either way
//	POST /set      changes an attachment's time limits; the body is a Set
//
// A request that fails is answered with a 4xx or 5xx status and {"error": "…"}. Within an API version fields are added to
// Status and none is changed or removed.
//
// A socket that nobody listens at was left by a process that was killed. It is told apart safely: a socket is bound and
// listens under another name before it gets its own, and names change hands under a lock on the directory.
package control

import (
	"context"
	"errors"
	"time"
)

// API is the version of the requests and of Status.
const API = 1

// The errors that a caller may tell apart.
var (
	// ErrTaken: a running process has the socket of that name.
	ErrTaken = errors.New("in use")
	// ErrAPI: the process speaks another version of the API.
	ErrAPI = errors.New("another version of dnbd")
)

// Handler is what a process does with the requests. All functions may be called from many goroutines at once.
type Handler struct {
	// Status says what the process is doing. API, PID and Socket are filled in by the Service.
	Status func() Status
	// Detach ends the attachment, or says why not; the process exits after it has returned nil. Nil where there is none.
	Detach func(ctx context.Context) error
	// AddCache adds a cache to the attachment. Nil where there is none.
	AddCache func(ctx context.Context, r AddCache) error
	// Force ends the attachment whatever uses it, as Detach does. Nil where that cannot be done.
	Force func(ctx context.Context) error
	// Set changes time limits. Nil where there are none.
	Set func(ctx context.Context, r Set) error
}

// Set asks for other time limits of an attachment. What is 0 stays as it is.
type Set struct {
	Timeout   time.Duration `json:"timeout"`    // after which a request is sent again, on another connection
	IOTimeout time.Duration `json:"io_timeout"` // after which one that cannot be answered fails
}

// AddCache asks for a cache file to be added.
type AddCache struct {
	File string `json:"file"` // an absolute path
	Size int64  `json:"size"` // in bytes; 0: the file is there, and its size is the capacity
}

// failure is the body of an answer to a request that failed.
type failure struct {
	Error string `json:"error"`
}
