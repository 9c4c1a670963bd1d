package main

import (
	"strings"
	"testing"
	"time"
)

func TestNBDClientTakesItsUsersCommandLines(t *testing.T) {
	for line, check := range map[string]func(c *nbdClientArgs) bool{
		"host /dev/x-nbd0": func(c *nbdClientArgs) bool {
			return c.uri() == "nbd://host/" && c.device == "/dev/x-nbd0" && !c.persist
		},
		"host 99 /dev/x-nbd0":         func(c *nbdClientArgs) bool { return c.uri() == "nbd://host:99/" },
		"host -N a /dev/x-nbd0":       func(c *nbdClientArgs) bool { return c.uri() == "nbd://host/a" },
		"-name=a/b host /dev/x-nbd0":  func(c *nbdClientArgs) bool { return c.name == "a/b" },
		"host /dev/x-nbd0 --name a":   func(c *nbdClientArgs) bool { return c.name == "a" },
		"-Na host /dev/x-nbd0":        func(c *nbdClientArgs) bool { return c.name == "a" },
		"::1 /dev/x-nbd0":             func(c *nbdClientArgs) bool { return c.uri() == "nbd://[::1]/" },
		"-unix /s /dev/x-nbd0 -N a":   func(c *nbdClientArgs) bool { return c.uri() == "nbd+unix:///a?socket=/s" },
		"h /dev/x-nbd0 -t 9":          func(c *nbdClientArgs) bool { return c.timeout == 9*time.Second },
		"h /dev/x-nbd0 -timeout 9":    func(c *nbdClientArgs) bool { return c.timeout == 9*time.Second },
		"h /dev/x-nbd0 -b 4096 -C 4":  func(c *nbdClientArgs) bool { return c.nbd.blockSize == 4096 && c.nbd.connections == 4 },
		"h /dev/x-nbd0 -persist -m":   func(c *nbdClientArgs) bool { return c.persist && c.nbd.mark },
		"h /dev/x-nbd0 -pers -swap":   func(c *nbdClientArgs) bool { return c.persist && c.swap },
		"h /dev/x-nbd0 -readonly -n":  func(c *nbdClientArgs) bool { return c.nbd.readOnly && c.foreground },
		"h /dev/x-nbd0 -size 4096 -g": func(c *nbdClientArgs) bool { return c.nbd.size == 4096 && c.nbd.noGo },
		"h /dev/x-nbd0 -x":            func(c *nbdClientArgs) bool { return c.uri() == "nbds://h/" },
		"h /dev/x-nbd0 -tlshostname n": func(c *nbdClientArgs) bool {
			return c.tls && c.files.hostname == "n"
		},
		"h /dev/x-nbd0 -certfile /c -keyfile /k -cacertfile /a": func(c *nbdClientArgs) bool {
			return c.tls && c.files == tlsFlags{cert: "/c", key: "/k", ca: "/a"}
		},
		"-d /dev/x-nbd0":     func(c *nbdClientArgs) bool { return c.disconnect == "/dev/x-nbd0" },
		"-c /dev/x-nbd0":     func(c *nbdClientArgs) bool { return c.check == "/dev/x-nbd0" },
		"-check /dev/x-nbd0": func(c *nbdClientArgs) bool { return c.check == "/dev/x-nbd0" },
		"-l host":            func(c *nbdClientArgs) bool { return c.list && c.host == "host" && c.port == 10809 },
		"-list host 99":      func(c *nbdClientArgs) bool { return c.list && c.port == 99 },
		"-h":                 func(c *nbdClientArgs) bool { return c.help },
		"-V":                 func(c *nbdClientArgs) bool { return c.version },
	} {
		c, err := parseNBDClient(strings.Fields(line))
		if err != nil || !check(c) {
			t.Errorf("nbd-client %s: %+v, %v", line, c, err)
		}
	}
}

func TestNBDClientRefusesByNameWithTheReason(t *testing.T) {
	for line, want := range map[string]string{
		"":                              "name the server",
		"/dev/x-nbd0":                   "nbdtab is not read",
		"h 0 /dev/x-nbd0":               "port",
		"h x /dev/x-nbd0":               `port "x"`,
		"a 1 2 /dev/x-nbd0":             "name the server",
		"-nonetlink h /dev/x-nbd0":      "-nonetlink: devices made by ioctl cannot be reconnected",
		"-L h /dev/x-nbd0":              "-nonetlink: ",
		"-sdp h /dev/x-nbd0":            "-sdp: ",
		"-preinit h /dev/x-nbd0":        "-preinit: ",
		"-b 1000 h /dev/x-nbd0":         "-block-size: it is 512",
		"-t 0 h /dev/x-nbd0":            `-timeout: "0" is not`,
		"-no h /dev/x-nbd0":             "write more of it",
		"-wrong h /dev/x-nbd0":          `unknown option "-wrong"`,
		"-q h /dev/x-nbd0":              `unknown option "-q"`,
		"-persist=1 h /dev/x-nbd0":      "-persist has no value",
		"h /dev/x-nbd0 -N":              "-name needs NAME",
		"-d /dev/x-nbd0 h":              `"h" is one argument too many`,
		"-unix /s /t /dev/x-nbd0":       "name the server: PATH DEVICE",
		"h /dev/x-nbd0 -cacertfile= -p": "-cacertfile: ",
		"h ..":                          "is no device",
	} {
		c, err := parseNBDClient(strings.Fields(line))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nbd-client %s: %+v, %v; want an error with %q", line, c, err, want)
		}
	}
}
