//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// nbdReader is a load of many connections, each of which reads at random and keeps depth requests in flight. It speaks just as
// much NBD as that takes: simple replies, and no options but the name.
type nbdReader struct {
	connections int
	depth       int // so small that a socket's buffer takes the requests at once
	block       int // bytes that each request reads
	size        int64
	during      time.Duration
}

// readings are what connections did.
type readings struct {
	seconds   float64
	latencies []time.Duration // of all requests, sorted
}

// perSecond is how many requests were answered in a second.
func (g readings) perSecond() float64 { return float64(len(g.latencies)) / g.seconds }

func (g readings) median() time.Duration  { return g.latencies[len(g.latencies)/2] }
func (g readings) longest() time.Duration { return g.latencies[len(g.latencies)-1] }

// run connects, lets all connections read at once when all are there, and closes them.
func (l nbdReader) run(ctx context.Context, s *nbdProcess) (readings, error) {
	conns := make([]*nbdConn, 0, l.connections)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range l.connections {
		c, err := dialNBD(ctx, s.network, s.address)
		if err != nil {
			return readings{}, err
		}
		conns = append(conns, c)
	}

	began := time.Now()
	latencies, errs := make([][]time.Duration, len(conns)), make([]error, len(conns))
	var all sync.WaitGroup
	for i, c := range conns {
		all.Go(func() { latencies[i], errs[i] = c.read(l, began.Add(l.during)) })
	}
	all.Wait()
	g := readings{seconds: time.Since(began).Seconds(), latencies: slices.Concat(latencies...)}
	slices.Sort(g.latencies)
	for i, err := range errs {
		if err != nil {
			return readings{}, fmt.Errorf("connection %d of %d: %w", i+1, len(conns), err)
		}
	}
	return g, nil
}

// nbdConn is a connection in the transmission phase.
type nbdConn struct {
	net.Conn
	in  *bufio.Reader
	out *bufio.Writer
}

// Numbers of the protocol (doc/proto.md of NetworkBlockDevice/nbd).
const (
	nbdMagicServer  = 0x4e42444d41474943
	nbdMagicOption  = 0x49484156454f5054
	nbdMagicAnswer  = 0x0003e889045565a9
	nbdMagicRequest = 0x25609513
	nbdMagicReply   = 0x67446698

	nbdNewstyleNoZeroes = 3 // client flags
	nbdOptionGo         = 7
	nbdAnswerAck        = 1
	nbdAnswerError      = 1 << 31
	nbdMostAnswer       = 64 << 10 // bytes in an answer, more than any server has to say
)

// dialNBD connects and negotiates. The connection ends with ctx's deadline.
func dialNBD(ctx context.Context, network, address string) (*nbdConn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		raw.SetDeadline(deadline)
	}
	c := &nbdConn{raw, bufio.NewReaderSize(raw, 64<<10), bufio.NewWriter(raw)}
	if err := c.negotiate(); err != nil {
		raw.Close()
		return nil, fmt.Errorf("negotiate: %w", err)
	}
	return c, nil
}

func (c *nbdConn) negotiate() error {
	var hello [18]byte
	if _, err := io.ReadFull(c.in, hello[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint64(hello[:]) != nbdMagicServer || binary.BigEndian.Uint64(hello[8:]) != nbdMagicOption {
		return fmt.Errorf("the server says %x", hello)
	}
	b := binary.BigEndian.AppendUint32(nil, nbdNewstyleNoZeroes)
	b = binary.BigEndian.AppendUint64(b, nbdMagicOption)
	b = binary.BigEndian.AppendUint32(b, nbdOptionGo)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(exportName)+2))
	b = binary.BigEndian.AppendUint32(b, uint32(len(exportName)))
	b = append(b, exportName...)
	b = binary.BigEndian.AppendUint16(b, 0) // no information is asked for
	if _, err := c.Write(b); err != nil {
		return err
	}
	for {
		var head [20]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			return err
		}
		kind, length := binary.BigEndian.Uint32(head[12:]), binary.BigEndian.Uint32(head[16:])
		if binary.BigEndian.Uint64(head[:]) != nbdMagicAnswer || length > nbdMostAnswer {
			return fmt.Errorf("the server answers %x", head)
		}
		if _, err := c.in.Discard(int(length)); err != nil {
			return err
		}
		switch {
		case kind == nbdAnswerAck:
			return nil
		case kind&nbdAnswerError != 0:
			return fmt.Errorf("the server refuses the export %q: error %d", exportName, kind&^nbdAnswerError)
		}
	}
}

// read keeps requests in flight until the end, and returns how long each took.
func (c *nbdConn) read(l nbdReader, end time.Time) ([]time.Duration, error) {
	const usual = 1 << 12 // requests on a connection, about
	latencies := make([]time.Duration, 0, usual)
	asked := make([]time.Time, l.depth) // by cookie
	for cookie := range asked {
		asked[cookie] = time.Now()
		c.ask(l, cookie)
	}
	for flying := l.depth; flying > 0; {
		if c.in.Buffered() == 0 {
			if err := c.out.Flush(); err != nil {
				return nil, err
			}
		}
		cookie, err := c.reply(l)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		latencies = append(latencies, now.Sub(asked[cookie]))
		if now.After(end) {
			flying--
			continue
		}
		asked[cookie] = now
		c.ask(l, cookie)
	}
	return latencies, nil
}

// ask writes a request to read a block anywhere. It stays in the buffer; an error shows when that is flushed.
func (c *nbdConn) ask(l nbdReader, cookie int) {
	b := binary.BigEndian.AppendUint32(c.out.AvailableBuffer(), nbdMagicRequest)
	b = binary.BigEndian.AppendUint32(b, 0) // no flags, read
	b = binary.BigEndian.AppendUint64(b, uint64(cookie))
	b = binary.BigEndian.AppendUint64(b, uint64(rand.Int64N(l.size/int64(l.block))*int64(l.block)))
	b = binary.BigEndian.AppendUint32(b, uint32(l.block))
	c.out.Write(b)
}

// reply reads the reply to a request and returns the request's cookie.
func (c *nbdConn) reply(l nbdReader) (cookie int, err error) {
	var head [16]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, err
	}
	id := binary.BigEndian.Uint64(head[8:])
	if binary.BigEndian.Uint32(head[:]) != nbdMagicReply || id >= uint64(l.depth) {
		return 0, fmt.Errorf("the server replies %x", head)
	}
	if errno := binary.BigEndian.Uint32(head[4:]); errno != 0 {
		return 0, fmt.Errorf("a read failed with error %d", errno)
	}
	_, err = c.in.Discard(l.block)
	return int(id), err
}
