package nbd

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// The errors that a caller of a Client may have to tell apart; they are wrapped by errors that say more. What a server
// answered is a RemoteError.
var (
	// ErrProtocol: the server sent what the protocol does not allow. Nothing more is asked of it, for nothing it says can be
	// relied on: the client has failed for good.
	ErrProtocol = errors.New("the server breaks the NBD protocol")
	// ErrWritesLost: writes that were answered, but not flushed yet when the connection broke, may be lost. The client goes
	// on; write again what was written since the last Flush that succeeded, or give up.
	ErrWritesLost = errors.New("the connection broke, and writes since the last flush may be lost")
)

// RemoteError is a server's answer that a request failed. The connection goes on.
type RemoteError struct {
	// Request is what failed, as "read 4096 bytes at 8192".
	Request string
	// Text is the server's reason, for people; it may be empty.
	Text string
	// number is that of "Error values".
	number uint32
}

func (e *RemoteError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("%s: the server answers: %v", e.Request, e.Errno())
	}
	return fmt.Sprintf("%s: the server answers: %v (%q)", e.Request, e.Errno(), e.Text)
}

// Errno is this system's number for the error. One that the protocol does not have counts as EINVAL, as "Error values" says.
func (e *RemoteError) Errno() syscall.Errno {
	switch e.number {
	case errPerm:
		return syscall.EPERM
	case errIO:
		return syscall.EIO
	case errNoMem:
		return syscall.ENOMEM
	case errNoSpace:
		return syscall.ENOSPC
	case errOverflow:
		return syscall.EOVERFLOW
	case 95: // NBD_ENOTSUP
		return syscall.ENOTSUP
	case errShutdown:
		return syscall.ESHUTDOWN
	}
	return syscall.EINVAL
}

// Unwrap makes errors.Is find the Errno, and with it errors.ErrUnsupported and fs.ErrPermission.
func (e *RemoteError) Unwrap() error { return e.Errno() }

// lackError is the error of a method that the export does not support. Nothing was sent.
type lackError struct {
	what  string
	errno syscall.Errno
}

func (e *lackError) Error() string        { return e.what }
func (e *lackError) Errno() syscall.Errno { return e.errno }
func (e *lackError) Is(target error) bool {
	return target == errors.ErrUnsupported || target == error(e.errno)
}

// lostError is the end of a connection. What was under way may be asked again on another one.
type lostError struct{ cause error }

func (e *lostError) Error() string { return fmt.Sprintf("connection lost: %v", e.cause) }
func (e *lostError) Unwrap() error { return e.cause }

// lies returns an error for what a server must not send.
func lies(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
}

// optionNames are those of "Option types".
var optionNames = map[uint32]string{
	optExportName: "EXPORT_NAME", optAbort: "ABORT", optList: "LIST", optStartTLS: "STARTTLS", optInfo: "INFO", optGo: "GO",
	optStructuredReply: "STRUCTURED_REPLY", optListMetaContext: "LIST_META_CONTEXT", optSetMetaContext: "SET_META_CONTEXT",
	optExtendedHeaders: "EXTENDED_HEADERS",
}

// optionError is a server's refusal of an option, "Option reply types".
type optionError struct {
	option, kind uint32
	text         string
}

func (e *optionError) Error() string {
	reason := fmt.Sprintf("error 0x%08x", e.kind)
	switch e.kind {
	case repErrUnsup:
		reason = "the server does not know this option"
	case repErrPolicy:
		reason = "the server does not allow it"
	case repErrInvalid:
		reason = "the server calls it invalid"
	case repErrPlatform:
		reason = "the server's system does not support it"
	case repErrTLSReqd:
		reason = "the server wants TLS: use nbds:// or nbds+unix://"
	case repErrUnknown:
		reason = "the server has no export of this name"
	case repErrShutdown:
		reason = "the server is shutting down"
	case repErrBlockSizeReqd:
		reason = "the server wants its block sizes to be obeyed"
	case repErrTooBig:
		reason = "the server finds it too big"
	case repErrExtHeadersReqd:
		reason = "the server wants extended headers"
	}
	if e.text != "" {
		reason += fmt.Sprintf(" (%q)", e.text)
	}
	return fmt.Sprintf("%s: %s", optionNames[e.option], reason)
}

func (e *optionError) Is(target error) bool {
	switch e.kind {
	case repErrUnsup, repErrPlatform:
		return target == errors.ErrUnsupported
	case repErrUnknown:
		return target == fs.ErrNotExist
	case repErrPolicy, repErrTLSReqd:
		return target == fs.ErrPermission
	}
	return false
}

// refused says whether err is a server's refusal of an option, after which the negotiation goes on.
func refused(err error) bool {
	var e *optionError
	return errors.As(err, &e)
}

// refusedWith says whether err is a server's refusal of an option for the reason kind.
func refusedWith(err error, kind uint32) bool {
	var e *optionError
	return errors.As(err, &e) && e.kind == kind
}
