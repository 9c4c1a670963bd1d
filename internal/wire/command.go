package wire

import (
	"encoding/binary"
	"fmt"
)

// Command asks a server to do something, and for a part of what it has to say about that. A server takes commands only sealed with the
// group's key.
type Command struct {
	ID        uint64 // random, of this request; comes back in the Answer
	Challenge uint64 // that the server set for this request, or 0 before it has: only then is the command carried out, once
	Verb      Verb
	Part      uint16 // of the answer that is wanted
	Name      string // of an image, at most MaxName bytes
}

// Verb is what a Command asks for.
type Verb uint8

// The verbs.
const (
	VerbStatus   Verb = 1 // say what you are doing
	VerbReload   Verb = 2 // look at the files again
	VerbDrain    Verb = 3 // take no new requests, and end when the queue is empty
	VerbWithdraw Verb = 4 // do not offer this image any more
)

func (v Verb) String() string {
	switch v {
	case VerbStatus:
		return "status"
	case VerbReload:
		return "reload"
	case VerbDrain:
		return "drain"
	case VerbWithdraw:
		return "withdraw"
	}
	return fmt.Sprintf("verb %d", uint8(v))
}

// Answer tells what became of a Command.
type Answer struct {
	ID        uint64 // of the Command
	Challenge uint64
	Outcome   Outcome
	Part      uint16 // of Text, from 0 ...
	Parts     uint16 // ... and how many there are; 0 while there is no result
	Text      []byte // at most MaxAnswerText bytes: what was asked for, or why it failed
}

// Outcome is how far a Command is.
type Outcome uint8

// The outcomes.
const (
	OutcomeChallenge Outcome = 0 // repeat it with this challenge
	OutcomeWorking   Outcome = 1 // ask again
	OutcomeDone      Outcome = 2
	OutcomeFailed    Outcome = 3
)

const (
	commandFixed = 24
	answerFixed  = 28
	// MaxAnswerText is how many bytes of text an Answer has room for.
	MaxAnswerText = MaxControlSize - answerFixed
)

// Append appends the datagram to b.
func (c *Command) Append(b []byte) []byte {
	b = appendPrefix(b, TypeCommand)
	b = binary.BigEndian.AppendUint64(b, c.ID)
	b = binary.BigEndian.AppendUint64(b, c.Challenge)
	b = append(b, byte(c.Verb), byte(len(c.Name)))
	b = binary.BigEndian.AppendUint16(b, c.Part)
	return append(b, c.Name...)
}

// ParseCommand reads a COMMAND.
func ParseCommand(b []byte) (Command, error) {
	if err := expect(b, TypeCommand, commandFixed); err != nil {
		return Command{}, err
	}
	n := int(b[21])
	switch verb := Verb(b[20]); {
	case n > MaxName || verb < VerbStatus || verb > VerbWithdraw:
		return Command{}, fmt.Errorf("command: %w", ErrValue)
	case len(b) < commandFixed+n:
		return Command{}, fmt.Errorf("command: %w", ErrLength)
	}
	return Command{
		ID:        binary.BigEndian.Uint64(b[4:]),
		Challenge: binary.BigEndian.Uint64(b[12:]),
		Verb:      Verb(b[20]),
		Part:      binary.BigEndian.Uint16(b[22:]),
		Name:      string(b[commandFixed : commandFixed+n]),
	}, nil
}

// Append appends the datagram to b.
func (a *Answer) Append(b []byte) []byte {
	b = appendPrefix(b, TypeAnswer)
	b = binary.BigEndian.AppendUint64(b, a.ID)
	b = binary.BigEndian.AppendUint64(b, a.Challenge)
	b = append(b, byte(a.Outcome), 0)
	b = binary.BigEndian.AppendUint16(b, a.Part)
	b = binary.BigEndian.AppendUint16(b, a.Parts)
	b = binary.BigEndian.AppendUint16(b, uint16(len(a.Text)))
	return append(b, a.Text...)
}

// ParseAnswer reads an ANSWER, of whose bytes its Text is a part.
func ParseAnswer(b []byte) (Answer, error) {
	if err := expect(b, TypeAnswer, answerFixed); err != nil {
		return Answer{}, err
	}
	a := Answer{
		ID:        binary.BigEndian.Uint64(b[4:]),
		Challenge: binary.BigEndian.Uint64(b[12:]),
		Outcome:   Outcome(b[20]),
		Part:      binary.BigEndian.Uint16(b[22:]),
		Parts:     binary.BigEndian.Uint16(b[24:]),
	}
	n := int(binary.BigEndian.Uint16(b[26:]))
	switch {
	case len(b) < answerFixed+n:
		return Answer{}, fmt.Errorf("answer: %w", ErrLength)
	case n > MaxAnswerText, a.Outcome > OutcomeFailed, a.Parts > 0 && a.Part >= a.Parts:
		return Answer{}, fmt.Errorf("answer: %w", ErrValue)
	}
	a.Text = b[answerFixed : answerFixed+n]
	return a, nil
}
