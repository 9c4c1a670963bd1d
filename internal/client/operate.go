package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/dnbd/dnbd/internal/seal"
	"github.com/dnbd/dnbd/internal/wire"
)

const (
	// askFirst and askLast bound the pauses after which an operator's command is repeated that is not answered, or not done yet; each is
	// twice the one before.
	askFirst = 50 * time.Millisecond
	askLast  = time.Second
	// plainTime is after how long without an answer a server is asked whether it has no key, and deafTime after how long it is given up.
	plainTime = time.Second
	deafTime  = 5 * time.Second
	// maxAnswer bounds what an answer may hold: more than the status of a thousand images.
	maxAnswer = 16 << 20
)

// errPlain: a server answers, and has no key.
var errPlain = errors.New("the server has no group key, and takes no commands without: start it with --group-key")

// Operate has the server at an address, as HOST:PORT, carry out a command, and returns what it has to say. The command's ID is set here.
// It goes on as long as the server works on it, and fails when the server does not answer.
func Operate(ctx context.Context, address string, keys *seal.Ring, c wire.Command) ([]byte, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })()
	c.ID = nonce()
	o := operation{
		conn: conn, command: c, sealer: keys.NewSealer(seal.Client), opener: keys.NewOpener(seal.Server), heard: time.Now(), pause: askFirst,
	}
	for {
		done, err := o.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, fmt.Errorf("%v at %s: %w", c.Verb, address, err)
		case done:
			return o.text, nil
		}
	}
}

// operation is a command under way.
type operation struct {
	conn    net.Conn
	command wire.Command
	sealer  *seal.Sealer
	opener  *seal.Opener
	heard   time.Time // an answer
	pause   time.Duration
	text    []byte // the parts so far
	buf     [udpMessage]byte
}

// udpMessage is more than any control datagram has.
const udpMessage = 2048

// step sends the command and waits for what comes of it.
func (o *operation) step(ctx context.Context) (done bool, err error) {
	if _, err := o.conn.Write(o.sealer.Control(o.command.Append(nil))); err != nil {
		return false, noServer(err)
	}
	silent := time.Since(o.heard)
	if silent > plainTime {
		hello := wire.Hello{Nonce: o.command.ID}
		if _, err := o.conn.Write(hello.Append(nil)); err != nil {
			return false, noServer(err)
		}
	}
	if silent > deafTime {
		return false, errors.New("no answer: no server is there, it has another group key, or a firewall stops UDP between the two")
	}
	if err := o.conn.SetReadDeadline(time.Now().Add(o.pause)); err != nil || ctx.Err() != nil {
		return false, errors.Join(err, ctx.Err())
	}
	o.pause = min(2*o.pause, askLast)
	for {
		n, err := o.conn.Read(o.buf[:])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false, nil
		case err != nil:
			return false, noServer(err)
		}
		if w, err := wire.ParseWelcome(o.buf[:n]); err == nil && w.Nonce == o.command.ID {
			return false, errPlain
		}
		for _, b := range o.opener.Open([][]byte{o.buf[:n]}) {
			a, err := wire.ParseAnswer(b)
			if err != nil || a.ID != o.command.ID {
				continue
			}
			o.heard = time.Now()
			if again, done, err := o.take(a); again || done || err != nil {
				return done, err
			}
		}
	}
}

// take takes in an answer. With again the command is to be sent at once.
func (o *operation) take(a wire.Answer) (again, done bool, err error) {
	switch {
	case a.Outcome == wire.OutcomeChallenge:
		again = a.Challenge != o.command.Challenge
		o.command.Challenge = a.Challenge
		return again, false, nil
	case a.Outcome == wire.OutcomeWorking || a.Part != o.command.Part:
		return false, false, nil
	}
	o.text = append(o.text, a.Text...)
	o.command.Part++
	o.pause = askFirst
	switch {
	case len(o.text) > maxAnswer:
		return false, false, fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	case o.command.Part < a.Parts:
		return true, false, nil
	case a.Outcome == wire.OutcomeFailed:
		return false, false, fmt.Errorf("the server says: %s", o.text)
	}
	return false, true, nil
}

// noServer says in words that nothing listens at an address.
func noServer(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("no server listens there: %w", err)
	}
	return err
}
