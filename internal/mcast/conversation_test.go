package mcast

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/internal/wire"
)

var rewrite = flag.Bool("rewrite", false, "write the transcripts in testdata anew")

// oneWay is how long a datagram takes in a transcript.
const oneWay = time.Millisecond

// conversation is a server and clients whose datagrams are written down. Blocks have four symbols.
type conversation struct {
	now     time.Time
	image   *testImage
	server  *Sender
	names   []string
	clients map[string]*Receiver
	lose    map[string][]int // numbers of the stream that a client will not hear
	flying  []flight
	out     strings.Builder
}

type flight struct {
	at       time.Time
	from, to string
	data     []byte
}

func newConversation() *conversation {
	c := &conversation{now: epoch, image: newTestImage(40<<12, 4<<10), clients: map[string]*Receiver{}, lose: map[string][]int{}}
	c.server = newTestSender(1, c.image)
	c.server.pace = newPacer(10e6)
	c.server.Tick(epoch)
	c.server.Packets() // the first ANNOUNCE: nobody is there
	return c
}

func (c *conversation) say(format string, args ...any) {
	fmt.Fprintf(&c.out, "%6.2f  %s\n", c.now.Sub(epoch).Seconds()*1000, fmt.Sprintf(format, args...))
}

func (c *conversation) address(name string) byte { return byte(10 + slices.Index(c.names, name)) }

// do runs one line of a transcript.
func (c *conversation) do(line string) error {
	words := strings.Fields(line)
	switch words[0] {
	case "client":
		r := newTestReceiver(c.image)
		r.cfg.Rand = rand.New(rand.NewPCG(uint64(len(c.names)), 1))
		c.names, c.clients[words[1]] = append(c.names, words[1]), r
	case "want": // NAME BLOCK ...
		for _, w := range words[2:] {
			block, err := strconv.Atoi(w)
			if err != nil {
				return err
			}
			c.clients[words[1]].Want(c.now, uint32(block), wire.Demand)
		}
	case "lose": // NAME NUMBER ...
		for _, w := range words[2:] {
			n, err := strconv.Atoi(w)
			if err != nil {
				return err
			}
			c.lose[words[1]] = append(c.lose[words[1]], n)
		}
	case "run":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			return err
		}
		c.run(c.now.Add(d))
	default:
		return fmt.Errorf("what is %q?", line)
	}
	return nil
}

// run lets time pass.
func (c *conversation) run(end time.Time) {
	for {
		c.talk()
		next := end
		sooner := func(t time.Time) {
			if t.Before(next) {
				next = t
			}
		}
		sooner(c.server.Next(c.now))
		for _, name := range c.names {
			sooner(c.clients[name].Next(c.now))
		}
		for _, f := range c.flying {
			sooner(f.at)
		}
		if !next.Before(end) {
			c.now = end
			return
		}
		c.now = next
		c.arrive()
	}
}

// talk takes what the machines have to say now.
func (c *conversation) talk() {
	c.server.Tick(c.now)
	c.image.load(c.server)
	for b := c.server.NextBurst(c.now); b != nil; b = c.server.NextBurst(c.now) {
		for _, data := range b.datagrams() {
			c.send("server", "", data)
		}
	}
	for _, p := range c.server.Packets() {
		to := ""
		for _, name := range c.names {
			if p.To == addr(c.address(name)) {
				to = name
			}
		}
		c.send("server", to, p.Data)
	}
	for _, name := range c.names {
		r := c.clients[name]
		r.Step(c.now)
		for _, b := range r.Blocks() {
			c.say("%s has block %d", name, b.Index)
		}
		for _, p := range r.Packets() {
			c.send(name, "server", p.Data)
		}
	}
}

func (c *conversation) send(from, to string, data []byte) {
	if text := describe(data); text != "" {
		c.say("%s: %s", from, text)
	}
	c.flying = append(c.flying, flight{c.now.Add(oneWay), from, to, data})
}

func (c *conversation) arrive() {
	var later []flight
	for _, f := range c.flying {
		if f.at.After(c.now) {
			later = append(later, f)
			continue
		}
		if f.to == "server" {
			c.server.Input(c.now, addr(c.address(f.from)), f.data)
			continue
		}
		for _, name := range c.names {
			if f.to == name || f.to == "" && !c.loses(name, f.data) {
				c.clients[name].Input(c.now, addr(1), f.data)
			}
		}
	}
	c.flying = later
}

// loses says whether the client is not to hear a symbol, once.
func (c *conversation) loses(name string, data []byte) bool {
	var d wire.Data
	if _, err := wire.ParseData(data, &d); err != nil || d.K == 0 {
		return false
	}
	i := slices.Index(c.lose[name], int(d.Seq))
	if i >= 0 {
		c.lose[name] = slices.Delete(c.lose[name], i, i+1)
		c.say("%s does not hear number %d", name, d.Seq)
	}
	return i >= 0
}

// describe tells what a datagram says; reports and announcements, which are not the subject, say nothing.
func describe(b []byte) string {
	switch t, _ := wire.TypeOf(b); t {
	case wire.TypeHello:
		if h, _ := wire.ParseHello(b); h.Cookie != 0 {
			return "HELLO, with the cookie"
		}
		return "HELLO"
	case wire.TypeWelcome:
		w, _ := wire.ParseWelcome(b)
		if w.Parts == 0 {
			return "WELCOME, a cookie"
		}
		return fmt.Sprintf("WELCOME, %d image", len(w.Offers))
	case wire.TypeWant:
		var w wire.Want
		if err := wire.ParseWant(b, &w); err != nil || len(w.Ranges) == 0 {
			return ""
		}
		text := "WANT"
		if w.Joined {
			text = fmt.Sprintf("WANT, seen %d,", w.Seen)
		}
		for _, r := range w.Ranges {
			if r.Need > 0 {
				text += fmt.Sprintf(" %d symbols of", r.Need)
			}
			text += fmt.Sprintf(" %d", r.Block)
			if r.Count > 1 {
				text += fmt.Sprintf(" to %d", r.Block+uint32(r.Count)-1)
			}
		}
		return text
	case wire.TypeData:
		var d wire.Data
		wire.ParseData(b, &d)
		if d.K == 0 {
			return fmt.Sprintf("tail mark %d", d.Seq)
		}
		kind := "symbol"
		if d.Index >= d.K {
			kind = "parity symbol"
		}
		return fmt.Sprintf("DATA %d, %s %d of block %d", d.Seq, kind, d.Index, d.Block)
	case wire.TypeAck:
		a, _ := wire.ParseAck(b)
		if a.Queued == 0 && a.InFlight == 0 {
			return ""
		}
		return fmt.Sprintf("ACK, %d queued, %d in flight, horizon %d", a.Queued, a.InFlight, a.Horizon)
	}
	return ""
}

// TestTranscripts runs the scripts of testdata: lines that begin with > are done, the others are what happens then, with the
// time in milliseconds.
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			c := newConversation()
			for line := range strings.Lines(string(text)) {
				switch {
				case strings.HasPrefix(line, "#"), line == "\n":
					c.out.WriteString(line)
				case strings.HasPrefix(line, "> "):
					c.out.WriteString(line)
					if err := c.do(line[2:]); err != nil {
						t.Fatal(err)
					}
				}
			}
			if *rewrite {
				if err := os.WriteFile(path, []byte(c.out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if c.out.String() != string(text) {
				t.Errorf("what happens is\n%s", c.out.String())
			}
		})
	}
}
