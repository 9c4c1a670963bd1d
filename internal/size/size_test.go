package size

import (
	"math"
	"strings"
	"testing"
)

func TestSizesAreReadAsPeopleWriteThem(t *testing.T) {
	for s, want := range map[string]int64{
		"0":                   0,
		"1":                   1,
		"65536":               65536,
		"64K":                 65536,
		"64k":                 65536,
		"64KiB":               65536,
		"64kib":               65536,
		"64 KiB":              65536,
		" 64K ":               65536,
		"64KB":                64000,
		"17B":                 17,
		"1.5M":                1572864,
		".5K":                 512,
		"1.3K":                1331, // 1331.2
		"32MiB":               32 << 20,
		"2G":                  2 << 30,
		"3T":                  3 << 40,
		"1P":                  1 << 50,
		"7E":                  7 << 60,
		"9007199254740993":    9007199254740993, // not a float64
		"9223372036854775807": math.MaxInt64,
	} {
		if got, err := Parse(s); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
}

func TestWhatIsNotASizeIsRefusedByName(t *testing.T) {
	for _, s := range []string{
		"", " ", "K", "-1", "+1", "1.2.3", ".", "1e9", "0x10", "1/2", "64Q", "64KK", "64KM", "64iB", "64KiBs", "64K/s", "8E",
		"9223372036854775808", strings.Repeat("9", 10_000), "64\xff", "1KMGTPE", "٣",
	} {
		if got, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", s, got)
		} else if len(s) < 100 && !strings.HasPrefix(err.Error(), "size ") {
			t.Errorf("Parse(%q): the error does not name it: %v", s, err)
		}
	}
}

func TestRatesAreBitsUnlessTheySayBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"0":           0,
		"1500":        1500,
		"200M":        200e6,
		"200m":        200e6,
		"200Mbit":     200e6,
		"200 Mbit/s":  200e6,
		"54Mbps":      54e6,
		"54Mb/s":      54e6,
		"1Gbit/s":     1e9,
		"2.5G":        2.5e9,
		"25MB/s":      200e6,
		"25MB":        200e6,
		"100B/s":      800,
		"100bit/s":    100,
		"1MiB/s":      8 << 20,
		"1Mibit/s":    1 << 20,
		"1Ki":         1024,
		"10T":         10e12,
		"1Eb":         1e18,
		"1.000001Kps": 1000,
	} {
		if got, err := ParseRate(s); err != nil || got != want {
			t.Errorf("ParseRate(%q) = %d, %v, want %d", s, got, err, want)
		}
	}
}

func TestWhatIsNotARateIsRefused(t *testing.T) {
	for _, s := range []string{"", "M", "-5M", "1Gbit/h", "1Gbit/s/s", "10X", "1e6", "5 M M", "2EB/s", "10E", "fast", "1i"} {
		if got, err := ParseRate(s); err == nil {
			t.Errorf("ParseRate(%q) = %d, want an error", s, got)
		}
	}
}

func TestFormattedSizesAndRatesReadBack(t *testing.T) {
	for n, want := range map[int64]string{
		0:             "0 B",
		1023:          "1023 B",
		1024:          "1 KiB",
		65536:         "64 KiB",
		1536:          "1.5 KiB",
		1<<20 - 1:     "1 MiB",
		1 << 20:       "1 MiB",
		3 << 30:       "3 GiB",
		math.MaxInt64: "8 EiB",
	} {
		got := Format(n)
		if got != want {
			t.Errorf("Format(%d) = %q, want %q", n, got, want)
		}
		back, err := Parse(got)
		if n != math.MaxInt64 && (err != nil || math.Abs(float64(back-n)) > float64(n)/20) {
			t.Errorf("Parse(%q) = %d, %v, want about %d", got, back, err, n)
		}
	}
	for n, want := range map[int64]string{
		0: "0 bit/s", 999: "999 bit/s", 200e6: "200 Mbit/s", 1.5e9: "1.5 Gbit/s", 999_999: "1 Mbit/s",
	} {
		got := FormatRate(n)
		if got != want {
			t.Errorf("FormatRate(%d) = %q, want %q", n, got, want)
		}
		if back, err := ParseRate(got); err != nil || math.Abs(float64(back-n)) > float64(n)/20 {
			t.Errorf("ParseRate(%q) = %d, %v, want about %d", got, back, err, n)
		}
	}
}

func TestAFlagKeepsItsValueWhenTheTextIsWrong(t *testing.T) {
	b, r := Bytes(1), Rate(2)
	if b.Set("64Q") == nil || r.Set("fast") == nil || b != 1 || r != 2 {
		t.Errorf("after wrong text: %d, %d", b, r)
	}
	if err := b.Set("64K"); err != nil || b != 65536 || b.String() != "64 KiB" {
		t.Errorf("Set(64K): %v, %s", err, b.String())
	}
	if err := r.Set("25MB/s"); err != nil || r != 200e6 || r.String() != "200 Mbit/s" {
		t.Errorf("Set(25MB/s): %v, %s", err, r.String())
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"64K", "1.5 MiB", "25MB/s", "1Gbit/s", "....", "9E", "1i"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := Parse(s); err == nil && n < 0 {
			t.Errorf("Parse(%q) = %d", s, n)
		}
		if n, err := ParseRate(s); err == nil && n < 0 {
			t.Errorf("ParseRate(%q) = %d", s, n)
		}
	})
}
