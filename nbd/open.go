package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// OpenFunc opens the device of an export for one client, when it chooses the export and also when it only asks about it.
// The connection waits meanwhile, others do not. ctx ends when the connection does, or when the server ends before the
// client has chosen. release, unless it is nil, is called once after the last use of the device, whatever happened.
//
// An error keeps the client from the export; it may ask for another. It is told the error's text, as a matter of policy
// when the error wraps ErrRefused, and otherwise as if there were no such export.
type OpenFunc func(ctx context.Context, client net.Addr) (d Device, release func(), err error)

// ErrRefused is wrapped by an error of Open that means that the client may not have the export.
var ErrRefused = errors.New("refused")

// errNeedsTLS is why a client without TLS does not get an export that needs it.
var errNeedsTLS = errors.New("this export requires TLS")

// open returns x with the device that this client is to have. If it was opened for it, n.close gives it back.
func (n *negotiation) open(x Export) (Export, error) {
	if x.NeedsTLS && !n.secure {
		return x, errNeedsTLS
	}
	if x.Open == nil {
		return x, nil
	}
	d, release, err := x.Open(n.ctx, n.client)
	if err == nil {
		n.release = release
		if size := d.Size(); size < 0 {
			err = fmt.Errorf("device of %d bytes", size)
		}
	}
	if err == nil {
		// Opening may have taken its time, which was not the client's.
		err = n.waiting()
	}
	if err != nil {
		n.close()
		n.log.Warn("NBD client does not get its export", "export", x.Name, "err", err)
		return x, err
	}
	x.Device = d
	return x, nil
}

// refuseOpen answers an option whose export cannot be opened.
func (n *negotiation) refuseOpen(option uint32, err error) {
	kind := uint32(repErrUnknown)
	switch {
	case errors.Is(err, ErrRefused):
		kind = repErrPolicy
	case errors.Is(err, errNeedsTLS):
		kind = repErrTLSReqd
	}
	n.refuse(option, kind, err.Error())
}

// close gives back what open opened.
func (n *negotiation) close() {
	if n.release != nil {
		n.release()
		n.release = nil
	}
}
