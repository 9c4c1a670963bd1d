package nbdconf

import "slices"

// Section is the kind of section that a key stands in.
type Section string

// The kinds of sections.
const (
	Generic   Section = "generic" // the first, for the server
	PerExport Section = "export"  // every other, by any name, for one export
)

// Type is the type of a key's value.
type Type string

// The types of values. A path is a string that must be absolute.
const (
	String  Type = "string"
	Path    Type = "path"
	Integer Type = "integer"
	Boolean Type = "boolean"
)

// Key is a key of nbd-server(5), and what becomes of it.
type Key struct {
	Section Section
	Name    string
	Type    Type
	Default string // as in a file; "" is the zero value
	Min     int64  // the least value of an integer
	Flag    string // the option of the command line that does the same, "" for none
	Does    string // what it does, in a few words
	// Refused says why the key is not honoured, and what to do instead; "" when it is. A refused boolean may be false.
	Refused string

	// field returns a pointer to where the value goes, in the one of both that the section is for; nil for a refused key.
	field func(c *Config, x *Export) any
}

// Keys returns every key of nbd-server(5) of 3.24 to 3.27, and a few that are met beside, by section and name. A copy: the
// caller may change it.
func Keys() []Key { return slices.Clone(keys) }

// lookup returns the key of a name, or nil.
func lookup(in Section, name string) *Key {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Section == in && k.Name == name })
	if i < 0 {
		return nil
	}
	return &keys[i]
}
