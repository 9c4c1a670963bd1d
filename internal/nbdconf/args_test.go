package nbdconf

import (
	"reflect"
	"strings"
	"testing"
)

// command returns a command with what nearly all have.
func command(set func(c *Command, x *Export)) *Command {
	c := &Command{ConfigFile: DefaultFile, Export: NewExport(""), Port: 2000}
	c.Export.Path = "/f"
	c.Export.AuthFile = DefaultAllowFile
	set(c, c.Export)
	return c
}

func TestParseArgsReadsWhatNBDServerDoes(t *testing.T) {
	for _, c := range []struct {
		args string
		want *Command
	}{
		{"", &Command{ConfigFile: DefaultFile}},
		{"-C /c -p /pid -d", &Command{ConfigFile: "/c", PIDFile: "/pid", Foreground: true, Debug: true}},
		{"-n", &Command{ConfigFile: DefaultFile, Foreground: true}},
		{"-V", &Command{ConfigFile: DefaultFile, Version: true}},
		{"--help nonsense", &Command{ConfigFile: DefaultFile, Help: true}},
		{"2000 /f", command(func(*Command, *Export) {})},
		{"2000 /f -r", command(func(_ *Command, x *Export) { x.ReadOnly = true })},
		{"2000 /f -c", command(func(_ *Command, x *Export) { x.CopyOnWrite = true })},
		{"-rmc 2000 /f", command(func(_ *Command, x *Export) { x.ReadOnly, x.MultiFile, x.CopyOnWrite = true, true, true })},
		{"0 /f", command(func(c *Command, _ *Export) { c.Port = 0 })},
		{"127.0.0.1:2000 /f", command(func(c *Command, _ *Export) { c.Listen = Addresses{"127.0.0.1"} })},
		{"127.0.0.1@2000 /f", command(func(c *Command, _ *Export) { c.Listen = Addresses{"127.0.0.1"} })},
		{"::1@2000 /f", command(func(c *Command, _ *Export) { c.Listen = Addresses{"::1"} })},
		{"localhost:2000 /f", command(func(c *Command, _ *Export) { c.Listen = Addresses{"localhost"} })},
		{"2000 /f 512", command(func(_ *Command, x *Export) { x.FileSize = 512 })},
		{"2000 /f 10k", command(func(_ *Command, x *Export) { x.FileSize = 10 << 10 })},
		{"2000 /f 10K", command(func(_ *Command, x *Export) { x.FileSize = 10 << 10 })},
		{"2000 -r /f 3m", command(func(_ *Command, x *Export) { x.FileSize, x.ReadOnly = 3<<20, true })},
		{"2000 /f 3M -l /allow", command(func(_ *Command, x *Export) { x.FileSize, x.AuthFile = 3<<20, "/allow" })},
		{"2000 /f -M 7 -o s", command(func(c *Command, x *Export) { x.MaxConnections, c.Section = 7, "s" })},
		{"2000 /f -M7 -os", command(func(c *Command, x *Export) { x.MaxConnections, c.Section = 7, "s" })},
		{"2000 /f --max-connections=7 --output-config s", command(func(c *Command, x *Export) { x.MaxConnections, c.Section = 7, "s" })},
		{"2000 /f --read --multi --copy", command(func(_ *Command, x *Export) { x.ReadOnly, x.MultiFile, x.CopyOnWrite = true, true, true })},
		{"-C /a -C /b -- 2000 /f", command(func(c *Command, _ *Export) { c.ConfigFile = "/b" })},
		{"2000 /srv/%s", command(func(_ *Command, x *Export) { x.Path = "/srv/%s" })},
	} {
		got, err := ParseArgs(strings.Fields(c.args))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %+v, %v, want %+v", c.args, got, err, c.want)
		}
	}
}

func TestParseArgsRefusesWithAReason(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"2000", "alone"},
		{"2000 /f 1 2", "one too many"},
		{"2000 f", "relative"},
		{"2000 /f -l allow", "relative"},
		{"65536 /f", "not within 0 and 65535"},
		{"-1 /f", "unknown option"},
		{"nosuchservice /f", "name of a service"},
		{"::1:2000 /f", "IP@PORT"},
		{"127.0.0.300@2000 /f", "not an IP address"},
		{"@2000 /f", "not an IP address"},
		// nbd-server takes it for one byte.
		{"2000 /f 1G", "KiB or MiB"},
		{"2000 /f 1x", "KiB or MiB"},
		{"2000 /f 9007199254740993k", "not within"},
		{"2000 /f -- -5", "not within"},
		{"2000 /f -M -1", "not within"},
		{"2000 /f -a 3", "unknown option"},
		{"2000 /f -C", "-C needs FILE"},
		{"2000 /f --config-file", "--config-file needs FILE"},
		{"2000 /f --config-file=", "is empty"},
		{"2000 /f --read-only=yes", "has no value"},
		{"2000 /f --nosuch", "unknown option"},
		{"2000 /f --ver --co", "write more of it"},
		{"2000 /f -o ]", "section"},
		{"2000 /f -o generic", "section"},
		{"2000 /srv/%s/%s", "percent"},
		{"2000 /srv/100%", "percent"},
		// nbd-server says nothing and does nothing.
		{"-r", "-r is for the FILE"},
		{"-M 4", "-M is for the FILE"},
		{"-o s", "-o is for the FILE"},
	} {
		if got, err := ParseArgs(strings.Fields(c.args)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %+v, %v, want an error with %q", c.args, got, err, c.want)
		}
	}
}

func TestSectionIsTheCommandLine(t *testing.T) {
	c, err := ParseArgs(strings.Fields("2000 /srv/%s 10M -r -m -c -M 3 -l /allow -o swap"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Export.Section(c.Section)
	want := "[swap]\n\tauthfile = /allow\n\tcopyonwrite = true\n\texportname = /srv/%s\n\tfilesize = 10485760\n" +
		"\tmaxconnections = 3\n\tmultifile = true\n\treadonly = true\n"
	if err != nil || got != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
}

func TestUsageHasEveryOption(t *testing.T) {
	usage := Usage("nbd-server")
	for _, o := range options {
		if !strings.Contains(usage, "-"+string(o.short)+", --"+o.long) {
			t.Errorf("no -%c in the usage", o.short)
		}
	}
	if !strings.HasPrefix(usage, "Usage: nbd-server [IP@]PORT FILE [SIZE]") || strings.Contains(usage, "%!") {
		t.Error(usage)
	}
}
