package nbd

import "strings"

// clip makes s a string as "Conventions" wants it: valid UTF-8 without NUL, of at most maxString bytes.
func clip(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	return strings.ToValidUTF8(s[:min(len(s), maxString)], "")
}
