package nbdconf

import (
	"reflect"
	"strings"
	"testing"
)

func TestLoadJoinsTheFileAndTheCommandLine(t *testing.T) {
	const export = "[e]\nexportname = /e\n"
	for _, c := range []struct {
		args, file string
		want       string // what the configuration is without its exports, "!" and an error, or "" for the names of exports
		names      string
	}{
		{"", "[generic]\n" + export, "[generic]\n", "e"},
		{"", "[generic]\n", "!nothing to serve", ""},
		{"", "", "!no section", ""},
		{"", "absent", "!not exist", ""},
		{"2000 /f", "absent", "[generic]\n\tport = 2000\n", "/"},
		{"2000 /f", "# empty\n", "[generic]\n\tport = 2000\n", "/"},
		{"2000 /f", "[generic]\nreadonly = 1\n", "!is a key of exports", ""},
		{"2000 /f", "[generic]\nincludedir = /none\n", "!not exist", ""},
		{"::1@2000 /f", "[generic]\n" + export, "[generic]\n\tlistenaddr = ::1\n\tport = 2000\n", "e/"},
		{"2000 /f", "[generic]\nlistenaddr = ::1\n", "[generic]\n\tlistenaddr = ::1\n\tport = 2000\n", "/"},
		{"::1@2000 /f", "[generic]\nport = 2000\nlistenaddr = ::1\n", "[generic]\n\tlistenaddr = ::1\n\tport = 2000\n", "/"},
		{"2000 /f", "[generic]\nport = 2001\n", "!/config:2: port differs", ""},
		{"2000 /f", "[generic]\nport = 10809\n", "!/config:2: port differs", ""},
		{"::1@2000 /f", "[generic]\nlistenaddr = 127.0.0.1\n", "!/config:2: listenaddr differs", ""},
		{"2000 /f", "[generic]\nunixsock = /s\n", "!/config:2: with unixsock", ""},
		{"0 /f", "[generic]\nunixsock = /s\n", "[generic]\n\tport = 0\n\tunixsock = /s\n", "/"},
		{"2000 /f -l /allow", "[generic]\n", "!/allow:1", ""},
	} {
		command, err := ParseArgs(append(strings.Fields(c.args), "-C", "/config"))
		if err != nil {
			t.Fatal(err)
		}
		src := memory{"/config": c.file, "/allow": "all\n"}
		if c.file == "absent" {
			delete(src, "/config")
		}
		config, err := command.load(src)
		if want, bad := strings.CutPrefix(c.want, "!"); bad {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q with %q: got %v, want an error with %q", c.args, c.file, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q with %q: %v", c.args, c.file, err)
			continue
		}
		var names []string
		for _, x := range config.Exports {
			names = append(names, x.Name)
		}
		want := strings.Split(strings.TrimPrefix(c.names, "/"), "/")
		if !reflect.DeepEqual(names, want) {
			t.Errorf("%q with %q: the exports are %q, want %q", c.args, c.file, names, want)
		}
		config.Exports = nil
		if got := written(t, config); got != c.want {
			t.Errorf("%q with %q: got\n%s\nwant\n%s", c.args, c.file, got, c.want)
		}
	}
}

func TestAddedHasTheExportsOfNewNames(t *testing.T) {
	before := &Config{Exports: []*Export{{Name: "a"}, {Name: "b"}}}
	after := &Config{Exports: []*Export{{Name: "c"}, {Name: "b", ReadOnly: true}, {Name: ""}}}
	if got := before.Added(after); !reflect.DeepEqual(got, []*Export{after.Exports[0], after.Exports[2]}) {
		t.Errorf("got %+v", got)
	}
}
