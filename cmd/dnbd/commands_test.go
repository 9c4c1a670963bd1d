package main

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// runs runs a command line and returns what it prints and its exit code.
func runs(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	code = run(args, &out, &errs)
	return out.String(), errs.String(), code
}

// all returns a command and all below it that users are told of.
func all(cmd *cobra.Command) []*cobra.Command {
	found := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			found = append(found, all(sub)...)
		}
	}
	return found
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	for _, root := range []*cobra.Command{rootCommand(), oldServerCommand(), oldClientCommand()} {
		for _, cmd := range all(root) {
			path := strings.Fields(cmd.CommandPath())
			out, errs, code := runs(append(path, "--help")...)
			if code != exitDone || errs != "" || !strings.Contains(out, "Usage:\n  "+cmd.CommandPath()) {
				t.Errorf("%s --help: exit code %d, %s%s", cmd.CommandPath(), code, out, errs)
			}
			if !cmd.HasSubCommands() && (!strings.Contains(out, "Examples:\n  "+cmd.CommandPath()) || cmd.Short == "") {
				t.Errorf("%s --help has no example", cmd.CommandPath())
			}
			for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
				if len([]rune(line)) > 121 {
					t.Errorf("%s --help has a line of %d characters: %s", cmd.CommandPath(), len(line), line)
				}
			}
		}
	}
}

func TestAnUnknownFlagIsAnErrorOfUsageEverywhere(t *testing.T) {
	for _, root := range []*cobra.Command{rootCommand(), oldServerCommand(), oldClientCommand()} {
		for _, cmd := range all(root) {
			out, errs, code := runs(append(strings.Fields(cmd.CommandPath()), "--no-such-flag")...)
			want := root.Name() + ": unknown flag: --no-such-flag; see '" + cmd.CommandPath() + " --help'\n"
			if code != exitUsage || out != "" || errs != want {
				t.Errorf("%s: exit code %d, %s%s", cmd.CommandPath(), code, out, errs)
			}
		}
	}
}

func TestSourcesAreFilesWithOrWithoutAName(t *testing.T) {
	for arg, want := range map[string]source{
		"disk.img":       {"", "disk.img"},
		"/dev/sda":       {"", "/dev/sda"},
		"films=/dev/sda": {"films", "/dev/sda"},
		"a=b=c":          {"a", "b=c"},
		"./a=b":          {"", "./a=b"},
		"/x/a=b":         {"", "/x/a=b"},
	} {
		if got, err := parseSources([]string{arg}); err != nil || !slices.Equal(got, []source{want}) {
			t.Errorf("%q is %+v, %v, want %+v", arg, got, err, want)
		}
	}
	for _, arg := range []string{"", "=", "=x", "a=", "a b=x", "-a=x", "a@1=x"} {
		if got, err := parseSources([]string{arg}); err == nil {
			t.Errorf("%q is %+v, want an error", arg, got)
		}
	}
}

func TestTheURIOfASocketKeepsItsPath(t *testing.T) {
	for path, want := range map[string]string{
		"/run/dnbd/nbd/a.sock": "nbd+unix:///?socket=/run/dnbd/nbd/a.sock",
		"/tmp/a b+c%d&e#f":     "nbd+unix:///?socket=/tmp/a%20b%2Bc%25d%26e%23f",
	} {
		if got := nbdURI(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestTheConsoleWritesALineForPeople(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(newConsole(&b, slog.LevelInfo))
	log.Debug("unseen")
	log.Info("hashing x", "size", "3 MiB")
	log.With("a", 1).WithGroup("g").Warn("plain", "msg", "kept")
	log.Error("no attributes")
	want := "dnbd: hashing x size=\"3 MiB\"\ndnbd: plain a=1 g.msg=kept\ndnbd: no attributes\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", &b, want)
	}
}

func TestATeeLeavesThePersonAloneOnceItIsSwitchedOff(t *testing.T) {
	var file, person bytes.Buffer
	both := newTee(slog.NewTextHandler(&file, nil), newConsole(&person, slog.LevelWarn))
	log := slog.New(both).With("a", 1)
	log.Info("for the file")
	log.Warn("for both")
	both.off.Store(true)
	log.Warn("for the file again")
	if person.String() != "dnbd: for both a=1\n" {
		t.Errorf("the person got %q", &person)
	}
	if n := strings.Count(file.String(), "\n"); n != 3 {
		t.Errorf("the file got %q", &file)
	}
}
