// Package size reads and writes amounts of bytes and rates of bits as people write them: 64K, 1.5 GiB, 200 Mbit/s, 25MB/s.
package size

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// maxDigits bounds the digits of a number, so that a hostile one costs nothing. 2^63 has 19; the rest is for fractions.
const maxDigits = 40

// Parse reads an amount of bytes: a number, whole or decimal, and a unit, with or without a space between and in upper or
// lower case. As in coreutils K, M, G, T, P and KiB, MiB, … are powers of 1024, and KB, MB, … are powers of 1000; no unit
// and B mean bytes. A fraction of a byte is dropped.
func Parse(s string) (int64, error) {
	number, unit := split(s)
	unit = strings.ToUpper(unit)
	base, prefix := int64(1024), unit
	switch {
	case strings.HasSuffix(unit, "IB") && len(unit) == 3:
		prefix = unit[:1]
	case strings.HasSuffix(unit, "B"):
		base, prefix = 1000, strings.TrimSuffix(unit, "B")
	}
	n, err := scale(number, base, prefix)
	if err != nil {
		return 0, fmt.Errorf("size %q: %w; write it like 65536, 64K, 1.5M or 32MiB", s, err)
	}
	return n, nil
}

// Format writes an amount of bytes in the largest binary unit that leaves at least 1 of it, with one decimal where it is
// not whole: "17 B", "64 KiB", "1.4 GiB". Parse reads it back, to within that decimal.
func Format(n int64) string {
	return format(n, 1024, "iB", "B")
}

// ParseRate reads a rate and returns it in bits per second. A number alone is bits per second, and so is one with K, M, G
// or T (powers of 1000) or Ki, Mi, … (powers of 1024), which "bit" or "b" and "/s" or "ps" may follow: 200M, 200Mbit,
// 1Gbit/s, 54Mbps. With B, and only with the capital, the amount is in bytes: 25MB/s is 200M.
func ParseRate(s string) (int64, error) {
	number, unit := split(s)
	unit = strings.TrimSuffix(strings.TrimSuffix(unit, "/s"), "ps")
	bits := int64(1)
	switch {
	case strings.HasSuffix(unit, "bit"):
		unit = strings.TrimSuffix(unit, "bit")
	case strings.HasSuffix(unit, "b"):
		unit = strings.TrimSuffix(unit, "b")
	case strings.HasSuffix(unit, "B"):
		unit, bits = strings.TrimSuffix(unit, "B"), 8
	}
	base := int64(1000)
	if len(unit) == 2 && unit[1] == 'i' {
		base, unit = 1024, unit[:1]
	}
	n, err := scale(number, base, strings.ToUpper(unit))
	if err == nil && n > (1<<63-1)/bits {
		err = errTooLarge
	}
	if err != nil {
		return 0, fmt.Errorf("rate %q: %w; write it like 200M, 200Mbit, 1Gbit/s (bits) or 25MB/s (bytes)", s, err)
	}
	return n * bits, nil
}

// FormatRate writes bits per second in the largest decimal unit that leaves at least 1 of it: "200 Mbit/s", "1.5 Gbit/s".
// ParseRate reads it back, to within that decimal.
func FormatRate(bits int64) string {
	return format(bits, 1000, "bit/s", "bit/s")
}

const prefixes = "KMGTPE"

var (
	errTooLarge = errors.New("too large")
	errNumber   = errors.New("not a number followed by a unit")
	errUnit     = errors.New("unknown unit")
)

// split parts a number from the unit behind it.
func split(s string) (number, unit string) {
	s = strings.TrimSpace(s)
	end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(s)
	}
	return s[:end], strings.TrimSpace(s[end:])
}

// scale returns number × base^n, where prefix is empty (n is 0) or the nth letter of prefixes.
func scale(number string, base int64, prefix string) (int64, error) {
	// Rat reads fractions and exponents too; split left it digits and dots only.
	r, ok := new(big.Rat), len(number) <= maxDigits
	if ok {
		r, ok = r.SetString(number)
	}
	if !ok {
		return 0, errNumber
	}
	power := 0
	if prefix != "" {
		power = strings.Index(prefixes, prefix) + 1
		if power == 0 || len(prefix) != 1 {
			return 0, errUnit
		}
	}
	for range power {
		r.Mul(r, new(big.Rat).SetInt64(base))
	}
	n := new(big.Int).Quo(r.Num(), r.Denom())
	if !n.IsInt64() {
		return 0, errTooLarge
	}
	return n.Int64(), nil
}

// format writes n in units of base^i named by a prefix and unit, or in one when n is below base.
func format(n, base int64, unit, one string) string {
	if n < base && n > -base {
		return fmt.Sprintf("%d %s", n, one)
	}
	value, i := float64(n), -1
	// What would be written as 1024.0 or 1000.0 is 1.0 of the next unit.
	for limit := float64(base) - 0.05; value >= limit || value <= -limit; i++ {
		value /= float64(base)
	}
	text := strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0")
	return text + " " + prefixes[i:i+1] + unit
}
