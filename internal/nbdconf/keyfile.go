package nbdconf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The syntax is that of GLib's key files, for that is what reads the configuration of nbd-server: sections in brackets, one
// key = value a line, comments on lines of their own, backslash escapes in strings, and no quotes. What GLib drops without a
// word (bytes after a NUL) is an error here.

// blanks are the bytes that GLib skips before a line and around the equals sign.
const blanks = " \t\f\r"

// section is one [section] of a file and its entries, in order.
type section struct {
	name    string
	pos     Pos
	entries []entry
}

// entry is one line key = value. The value is as in the file, not unescaped.
type entry struct {
	key, value string
	pos        Pos
}

var (
	errLine    = errors.New("neither [section], key = value nor # comment; a comment needs a line of its own")
	errOutside = errors.New("stands before the first section, which must be [generic]")
	errHeader  = errors.New("a section's name is UTF-8 without brackets and control characters, and not empty")
	errNUL     = errors.New("holds a NUL byte")
	errUTF8    = errors.New("is not UTF-8")
	errNoKey   = errors.New("no key before the equals sign")
)

// parseKeyFile splits a file into its sections. A line that cannot be read is reported and left out, and so is the section
// of a header that cannot be read.
func parseKeyFile(file string, data []byte) (sections []section, errs Errors) {
	line := 0
	for text := range strings.Lines(string(data)) {
		line++
		pos := Pos{file, line}
		text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
		text = strings.TrimLeft(text, blanks)
		if text == "" || text[0] == '#' {
			continue
		}
		if err := parseLine(&sections, text, pos); err != nil {
			bad := &Error{Pos: pos, Err: err}
			if len(sections) > 0 {
				bad.Section = sections[len(sections)-1].name
			}
			errs = append(errs, bad)
		}
	}
	return slices.DeleteFunc(sections, func(s section) bool { return s.name == "" }), errs
}

// parseLine adds a line that is neither empty nor a comment.
func parseLine(sections *[]section, text string, pos Pos) error {
	switch {
	case strings.ContainsRune(text, 0):
		return errNUL
	case !utf8.ValidString(text):
		return errUTF8
	case text[0] == '[':
		name, ok := strings.CutSuffix(strings.TrimRight(text[1:], " \t"), "]")
		if !ok || !validName(name) {
			// What follows belongs to no other section.
			*sections = append(*sections, section{pos: pos})
			return fmt.Errorf("%w: %s", errHeader, clip(text))
		}
		*sections = append(*sections, section{name: name, pos: pos})
		return nil
	}
	key, value, ok := strings.Cut(text, "=")
	switch key = strings.TrimRight(key, blanks); {
	case !ok:
		return fmt.Errorf("%w: %s", errLine, clip(text))
	case key == "":
		return errNoKey
	case len(*sections) == 0:
		return fmt.Errorf("%s %w", clip(key), errOutside)
	}
	last := &(*sections)[len(*sections)-1]
	last.entries = append(last.entries, entry{key, strings.TrimLeft(value, blanks), pos})
	return nil
}

// validName says whether a section can have this name. Its length is that of a string of the protocol, for the name of a
// section is the name of the export.
func validName(name string) bool {
	const maxString = 4096
	bad := func(r rune) bool { return r == '[' || r == ']' || unicode.IsControl(r) }
	return name != "" && len(name) <= maxString && utf8.ValidString(name) && !strings.ContainsFunc(name, bad)
}

// escapes are the letters that may follow a backslash, and what they stand for.
var escapes = map[byte]byte{'s': ' ', 'n': '\n', 't': '\t', 'r': '\r', '\\': '\\'}

// unescape returns the string that a value stands for.
func unescape(value string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		c := value[i]
		if c == '\\' {
			i++
			if i == len(value) {
				return "", errors.New(`ends in a single backslash; write \\ for one`)
			}
			var known bool
			if c, known = escapes[value[i]]; !known {
				r, _ := utf8.DecodeRuneInString(value[i:])
				return "", fmt.Errorf(`unknown escape \%c; there are \s \n \t \r and \\`, r)
			}
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

// escape writes a string as a value that unescape reads back.
func escape(s string) string {
	s = strings.NewReplacer("\\", `\\`, "\n", `\n`, "\t", `\t`, "\r", `\r`).Replace(s)
	if strings.HasPrefix(s, " ") {
		s = `\s` + s[1:]
	}
	return s
}

// expressible says whether a value can stand in a file.
func expressible(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0) && !strings.HasPrefix(s, "\f")
}

// clip shortens text that is quoted in an error.
func clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
