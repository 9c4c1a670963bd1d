package mcast

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

// helloFirst and helloLast bound the pauses after questions that bring no answer, to the group or to one server. Each pause is twice
// the one before. The first is short, for every server sends again what went out before the last client had found it.
const (
	helloFirst = 10 * time.Millisecond
	helloLast  = time.Second
)

// greeter asks servers what they have, each again until it answers: the question may be lost, and the answer.
type greeter struct {
	hello     wire.Hello // without a cookie
	private   *cookieJar // of nonces, one for each server; nil for that in hello
	greetings []greeting // the latest server last
}

// greeting is a question to one server.
type greeting struct {
	server netip.AddrPort
	cookie uint64        // that it was last asked with
	asked  time.Time     // when
	pause  time.Duration // until it is asked again; 0 if it has answered or never will
}

// ask appends to out the question to a server. Without its cookie the answer is the cookie. What anybody can make us ask is asked
// once a second at most, and what is under way is not asked anew.
func (g *greeter) ask(out []Packet, now time.Time, server netip.AddrPort, cookie uint64) []Packet {
	i := g.find(server)
	if i < 0 {
		if len(g.greetings) == maxReplicas {
			g.greetings = slices.Delete(g.greetings, 0, 1)
		}
		g.greetings = append(g.greetings, greeting{server: server})
		i = len(g.greetings) - 1
	}
	q := &g.greetings[i]
	if cookie == 0 && now.Sub(q.asked) < helloLast || cookie == q.cookie && q.pause > 0 {
		return out
	}
	q.cookie, q.pause = cookie, 0
	return g.send(out, now, q)
}

// again appends to out the questions that are to be asked again.
func (g *greeter) again(out []Packet, now time.Time) []Packet {
	for i := range g.greetings {
		q := &g.greetings[i]
		switch {
		case q.pause == 0 || now.Before(q.asked.Add(q.pause)):
		case q.pause == helloLast:
			q.pause = 0 // it is not there
		default:
			out = g.send(out, now, q)
		}
	}
	return out
}

func (g *greeter) send(out []Packet, now time.Time, q *greeting) []Packet {
	q.asked, q.pause = now, longer(q.pause)
	h := g.hello
	h.Cookie, h.Nonce = q.cookie, g.nonce(q.server)
	return append(out, Packet{To: q.server, Data: h.Append(nil)})
}

// nonce is that of the questions to a server. No other server learns it.
func (g *greeter) nonce(server netip.AddrPort) uint64 {
	if g.private == nil {
		return g.hello.Nonce
	}
	return g.private.cookie(server)
}

// longer is the pause that follows a pause without an answer.
func longer(pause time.Duration) time.Duration { return min(max(2*pause, helloFirst), helloLast) }

// answered ends the question to a server.
func (g *greeter) answered(server netip.AddrPort) {
	if i := g.find(server); i >= 0 {
		g.greetings[i].pause = 0
	}
}

// next returns when a question is to be asked again, if that is before t, or t.
func (g *greeter) next(t time.Time) time.Time {
	for _, q := range g.greetings {
		if at := q.asked.Add(q.pause); q.pause > 0 && at.Before(t) {
			t = at
		}
	}
	return t
}

func (g *greeter) find(server netip.AddrPort) int {
	return slices.IndexFunc(g.greetings, func(q greeting) bool { return q.server == server })
}
