//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// rootQdisc is on both ends of every wire, limited or not: its class 1:1 exists where a rate is set, and it counts.
//
// A queue is asked rather than the interface, because the interface counts a train of datagrams that was sent with
// segmentation offload as one packet with one header; the queue counts the headers that each datagram has on a wire.
const rootQdisc = "root handle 1: htb default 1"

// The two directions of a wire, as seen from the host.
const (
	up   = iota // sent by the host's eth0
	down        // sent by its port at the switch
)

// SetRate limits what host sends to bits per second; 0 lifts the limit. A sender that is faster waits, or fills a queue of 1000
// packets.
func (l *Lab) SetRate(host string, bits int64) error { return l.setRate(host, up, bits) }

// SetDownRate limits what the switch sends to host to bits per second; 0 lifts the limit. What exceeds it and a buffer of
// 1.5 MB is lost, as in a switch.
func (l *Lab) SetDownRate(host string, bits int64) error { return l.setRate(host, down, bits) }

// SetDownQueue sets how many bytes wait at most where SetDownRate limits, in place of 1.5 MB.
func (l *Lab) SetDownQueue(host string, bytes int) error {
	h, err := l.host(host)
	if err != nil {
		return err
	}
	change := fmt.Sprintf("qdisc change dev %s parent 1:1 handle 10: bfifo limit %d\n", h.name, bytes)
	if err := l.inSwitch(change, "tc"); err != nil {
		return fmt.Errorf("set queue of %s: %w", host, err)
	}
	return nil
}

func (l *Lab) setRate(name string, direction int, bits int64) error {
	h, err := l.host(name)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	namespace, dev, err := l.end(h, direction)
	if err != nil {
		return fmt.Errorf("set rate of %s: %w", name, err)
	}
	// Bytes and not packets at the switch, since a packet may be a whole train.
	queue := "pfifo limit 1000"
	if direction == down {
		queue = "bfifo limit 1500000"
	}
	var batch strings.Builder
	switch {
	case bits > 0:
		fmt.Fprintf(&batch, "class replace dev %s parent 1: classid 1:1 htb rate %dbit ceil %[2]dbit burst %d cburst %d quantum %d\n",
			dev, bits, 15<<10+late(bits), int64(l.MTU)+100+late(bits), l.MTU+14)
		if !h.limit[direction] {
			fmt.Fprintf(&batch, "qdisc add dev %s parent 1:1 handle 10: %s\n", dev, queue)
		}
	case h.limit[direction]:
		fmt.Fprintf(&batch, "qdisc del dev %s parent 1:1\nclass del dev %[1]s classid 1:1\n", dev)
	}
	if err := run(batch.String(), "tc", "-n", namespace, "-batch", "-"); err != nil {
		return fmt.Errorf("set rate of %s: %w", name, err)
	}
	h.limit[direction] = bits > 0
	return nil
}

// late is how many bytes a wire may send at once because the kernel's timer was late, by a millisecond at most. Without that a wire of
// 1 Gbit/s carries 0.92 of it, whoever sends.
func late(bits int64) int64 { return bits / 8 / 1000 }

// end returns the namespace and the interface that sends in a direction.
func (l *Lab) end(h *host, direction int) (namespace, dev string, err error) {
	switch {
	case direction == down:
		return l.prefix + Switch, h.name, nil
	case h.vm:
		return "", "", errors.New("it is a virtual machine, and what it sends is its own affair")
	}
	return l.prefix + h.name, "eth0", nil
}

// TxBytes is how many bytes host has sent into the network, with the headers of Ethernet and above, of each datagram
// even where trains were sent.
func (l *Lab) TxBytes(host string) (int64, error) { return l.bytes(host, up) }

// RxBytes is how many bytes the network has sent to host, counted like TxBytes.
func (l *Lab) RxBytes(host string) (int64, error) { return l.bytes(host, down) }

// Backlog is how many bytes wait in the network to be sent to host.
func (l *Lab) Backlog(host string) (int64, error) {
	q, err := l.queue(host, down)
	return q.Backlog, err
}

func (l *Lab) bytes(name string, direction int) (int64, error) {
	q, err := l.queue(name, direction)
	return q.Bytes, err
}

// queue is what tc says of the queue at one end of a wire.
type queue struct {
	Root           bool
	Bytes, Backlog int64
}

func (l *Lab) queue(name string, direction int) (queue, error) {
	h, err := l.host(name)
	if err != nil {
		return queue{}, err
	}
	namespace, dev, err := l.end(h, direction)
	if err != nil {
		return queue{}, fmt.Errorf("count bytes of %s: %w", name, err)
	}
	text, err := output("", "tc", "-n", namespace, "-s", "-j", "qdisc", "show", "dev", dev)
	if err != nil {
		return queue{}, fmt.Errorf("count bytes of %s: %w", name, err)
	}
	var queues []queue
	if err := json.Unmarshal(text, &queues); err != nil {
		return queue{}, fmt.Errorf("count bytes of %s: %w", name, err)
	}
	for _, q := range queues {
		if q.Root {
			return q, nil
		}
	}
	return queue{}, fmt.Errorf("count bytes of %s: its queue is gone", name)
}

// Loss makes the network lose a share of the UDP packets to host, in percent, each independent of the others and of those to
// other hosts. The first call switches segmentation offload off at the servers, at a price (see GSO): a packet would
// otherwise be a train of up to 64 KiB, and be lost as a whole.
func (l *Lab) Loss(host string, percent float64) error {
	if !(percent >= 0 && percent <= 100) {
		return fmt.Errorf("lose packets to %s: %v %%, want 0 to 100", host, percent)
	}
	const whole = 1_000_000
	var chosen string
	if n := int(percent / 100 * whole); n < whole { // nft refuses a condition that always holds
		chosen = fmt.Sprintf("numgen random mod %d < %d", whole, n)
	}
	return l.lose(host, chosen)
}

// LossInRows makes the network lose UDP packets to host that follow each other, so many of each period, as a radio does that fades. It is
// like Loss otherwise, and replaces it.
func (l *Lab) LossInRows(host string, row, period int) error {
	if row < 1 || row >= period {
		return fmt.Errorf("lose packets to %s: %d of %d, want some and not all", host, row, period)
	}
	return l.lose(host, fmt.Sprintf("numgen inc mod %d < %d", period, row))
}

// lose drops the UDP packets to host that an expression of nft chooses.
func (l *Lab) lose(host, chosen string) error {
	for _, s := range l.Servers() {
		if err := l.GSO(s, false); err != nil {
			return err
		}
	}
	return l.drop(host, fmt.Sprintf("meta l4proto udp %s drop", chosen))
}

// ClearLoss ends Loss and LossInRows. Segmentation offload stays off.
func (l *Lab) ClearLoss(host string) error { return l.drop(host, "") }

// drop replaces the rules for what leaves the switch's port to a host. They cost nothing where nothing is lost: in filter's chains each
// packet to a group is looked at as often as there are hosts with rules, for each of the hosts that it goes to.
func (l *Lab) drop(host, rules string) error {
	return l.replace("netdev", "loss-"+host, fmt.Sprintf("egress device %q", host), host, rules)
}

// Block drops everything to and from host, silently: its interface stays up.
func (l *Lab) Block(host string) error {
	return l.filter(host, "block", fmt.Sprintf("oifname %q drop\niifname %[1]q drop", host))
}

// Unblock ends Block.
func (l *Lab) Unblock(host string) error { return l.filter(host, "block", "") }

// Deafen drops all multicast UDP to host, as a switch does that snoops and has no querier. What is sent to the host alone arrives.
func (l *Lab) Deafen(host string) error {
	return l.filter(host, "deafen", fmt.Sprintf("oifname %q ip daddr 224.0.0.0/4 meta l4proto udp drop", host))
}

// ClearDeafen ends Deafen.
func (l *Lab) ClearDeafen(host string) error { return l.filter(host, "deafen", "") }

// filter replaces the rules of one kind for a host.
func (l *Lab) filter(host, kind, rules string) error {
	return l.replace("bridge", kind+"-"+host, "forward", host, rules)
}

// replace replaces the rules of a chain of nft for a host.
func (l *Lab) replace(family, chain, hook, name, rules string) error {
	if _, err := l.host(name); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.tables && rules == "" {
		return nil
	}
	text := fmt.Sprintf("table %s lab { chain %s { type filter hook %s priority 0; }; }\nflush chain %[1]s lab %[2]s\n", family, chain, hook)
	if rules != "" {
		text += fmt.Sprintf("table %s lab { chain %s {\n%s\n}\n}\n", family, chain, rules)
	}
	if err := run(text, "nsenter", "--net="+l.path(Switch), "--", "nft", "-f", "-"); err != nil {
		return fmt.Errorf("filter packets of %s: %w", name, err)
	}
	l.tables = true
	return nil
}

// GSO switches segmentation offload of host's interface, of UDP and TCP. It is on at first: a train crosses the lab as one packet, at a
// speed that no wire has. Off, each datagram is a packet, at some 3 Gbit/s at most.
func (l *Lab) GSO(host string, on bool) error {
	if _, err := l.host(host); err != nil {
		return err
	}
	state := "off"
	if on {
		state = "on"
	}
	err := run("", "nsenter", "--net="+l.path(host), "--", "ethtool", "-K", "eth0", "tx-udp-segmentation", state, "tso", state)
	if err != nil {
		return fmt.Errorf("switch segmentation offload of %s %s: %w", host, state, err)
	}
	return nil
}
