package server

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"github.com/dnbd/dnbd/internal/mcast"
	"github.com/dnbd/dnbd/internal/wire"
)

// maxCommands bounds the commands that are remembered; the oldest goes first.
const maxCommands = 64

// commands are what operators asked for lately. Each is set a challenge of its own and carried out once when that comes back, so that a
// recorded one is of no use: not later, and not with a server that was started again.
type commands struct {
	mu   sync.Mutex // guards what follows
	list []*command
}

// command is one, with what there is to say about it.
type command struct {
	from      netip.AddrPort
	id        uint64
	challenge uint64
	begun     bool
	outcome   wire.Outcome
	text      []byte
}

// take takes in a COMMAND and returns the command and whether it is to be carried out now.
func (c *commands) take(from netip.AddrPort, w wire.Command) (_ *command, begin bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.list, func(x *command) bool { return x.id == w.ID && x.from == from })
	if i < 0 {
		if len(c.list) >= maxCommands {
			c.list = slices.Delete(c.list, 0, 1)
		}
		var challenge [8]byte
		rand.Read(challenge[:])
		i = len(c.list)
		c.list = append(c.list, &command{from: from, id: w.ID, challenge: max(binary.BigEndian.Uint64(challenge[:]), 1)})
	}
	x := c.list[i]
	if x.challenge != w.Challenge || x.begun {
		return x, false
	}
	x.begun, x.outcome = true, wire.OutcomeWorking
	return x, true
}

// finish notes what became of a command.
func (c *commands) finish(x *command, text []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x.outcome, x.text = wire.OutcomeDone, text
	if err != nil {
		x.outcome, x.text = wire.OutcomeFailed, []byte(err.Error())
	}
}

// answer is a part of what there is to say about a command.
func (c *commands) answer(x *command, part uint16) wire.Answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := wire.Answer{ID: x.id, Challenge: x.challenge, Outcome: x.outcome}
	if x.outcome < wire.OutcomeDone {
		return a
	}
	parts := max((len(x.text)+wire.MaxAnswerText-1)/wire.MaxAnswerText, 1)
	a.Parts, a.Part = uint16(min(parts, 1<<16-1)), min(part, uint16(min(parts, 1<<16-1)-1))
	from := int(a.Part) * wire.MaxAnswerText
	a.Text = x.text[from:min(from+wire.MaxAnswerText, len(x.text))]
	return a
}

// errBusy: a reload waits for another one.
var errBusy = errors.New("it is being done already: try again later")

// command carries out a COMMAND that was sealed with the group's key, and answers it. Others are left without an answer.
func (l *link) command(from netip.AddrPort, b []byte) {
	w, err := wire.ParseCommand(b)
	if err != nil || l.server.cfg.Keys == nil {
		return
	}
	s := l.server
	c, begin := s.commands.take(from, w)
	if begin {
		s.cfg.Log.Info("an operator's command", "from", from, "verb", w.Verb, "image", w.Name)
		s.obey(w.Verb, w.Name, func(text []byte, err error) { s.commands.finish(c, text, err) })
	}
	a := s.commands.answer(c, w.Part)
	l.send(l.sealer, []mcast.Packet{{To: from, Data: a.Append(nil)}})
}

// obey does what a command asks for, or has it done, and calls done with what there is to say then.
func (s *Server) obey(v wire.Verb, image string, done func(text []byte, err error)) {
	switch v {
	case wire.VerbStatus:
		done(s.cfg.Describe(), nil)
	case wire.VerbWithdraw:
		done(nil, s.Withdraw(image))
	case wire.VerbDrain:
		s.Drain()
		done(nil, nil)
	case wire.VerbReload:
		if !s.Reload(func(err error) { done(nil, err) }) {
			done(nil, errBusy)
		}
	}
}
