package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary dnbd, DNBD's programs and nbd-server, when it is started by their names.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"dnbd": main, oldServer: main, oldClient: main, nbdServer: main})
}

// TestScripts runs testdata/script, the contract with users. It is run again in a network of its own, if one can be made.
func TestScripts(t *testing.T) {
	if os.Getenv(networkVariable) == "" && runInNetwork(t) {
		return
	}
	var scripts atomic.Uint32
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		WorkdirRoot:         t.TempDir(),
		RequireExplicitExec: true,
		Setup:               func(env *testscript.Env) error { return setUp(env, int(scripts.Add(1))) },
		Condition:           condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": exitCode, "random": randomFile, "get": get,
		},
	})
}

// networkVariable is set in the process that runs the scripts in a network of its own.
const networkVariable = "DNBD_TEST_NETWORK"

// scriptFlags are the flags with which this test binary runs the scripts that it was told to run, and nothing else.
func scriptFlags() []string {
	run := "^TestScripts$"
	if _, scripts, found := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); found {
		run += "/" + scripts
	}
	return []string{
		"-test.run=" + run, "-test.v=" + strconv.FormatBool(testing.Verbose()),
		"-test.timeout=" + flag.Lookup("test.timeout").Value.String(),
	}
}

// setUp gives script number n control sockets and a group of its own. At its end nothing may be left of what it attached.
func setUp(env *testscript.Env, n int) error {
	// Not below the script's own directory: that has too long a path for sockets.
	dir, err := os.MkdirTemp("", "dnbd")
	if err != nil {
		return err
	}
	env.Setenv("DNBD_RUNDIR", dir)
	env.Setenv("GROUP", "239.77.0."+strconv.Itoa(n))
	env.Setenv("RUN", dir)
	t := env.T().(testing.TB)
	env.Defer(func() {
		// The servers that the script left running are stopped by now, unless it has failed.
		for _, device := range attached(dir) {
			t.Errorf("%s is left attached", device)
			cmd := exec.Command("dnbd", "detach", device)
			cmd.Env = env.Vars
			out, err := cmd.CombinedOutput()
			t.Logf("%v: %v: %s", cmd, err, out)
		}
		os.RemoveAll(dir)
	})
	return nil
}

// attached are the devices whose processes have their sockets in dir, or left something there when they were killed.
func attached(dir string) (devices []string) {
	claims, _ := filepath.Glob(filepath.Join(dir, "fuse", "*")) // the pattern is a good one
	for _, c := range claims {
		if device, err := url.PathUnescape(filepath.Base(c)); err == nil {
			devices = append(devices, "/"+device)
		}
	}
	sockets, _ := filepath.Glob(filepath.Join(dir, "nbd", "*"))
	return append(devices, sockets...)
}

// condition says whether a script, or a line of it, can be run here. What cannot fails where DNBD_REQUIRE=1.
func condition(name string) (bool, error) {
	var why error
	switch kind, arg, _ := strings.Cut(name, ":"); kind {
	case "root":
		return os.Geteuid() == 0, nil
	case "network":
		if os.Getenv(networkVariable) == "" {
			why = errors.New("no network namespace can be made")
		}
	case "device":
		why = newFuseDriver().Available()
	case "loop":
		why = loopDevices()
	case "program":
		_, why = exec.LookPath(arg)
	default:
		return false, fmt.Errorf("unknown condition %s", name)
	}
	if why != nil && os.Getenv("DNBD_REQUIRE") == "1" {
		return false, fmt.Errorf("DNBD_REQUIRE=1, and there is no %s: %w", name, why)
	}
	return why == nil, nil
}

// loopDevices says why loop devices, and file systems on them, cannot be made here.
func loopDevices() error {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for _, program := range []string{"losetup", "mke2fs", "mount", "unshare"} {
		if _, lookErr := exec.LookPath(program); lookErr != nil {
			err = lookErr
		}
	}
	return errors.Join(err, f.Close())
}

// exitCode is the script command `code N COMMAND ARG...`, which runs a command that is to end with exit code N.
func exitCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N command [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// randomFile is the script command `random FILE SIZE`, which makes a file of bytes that look random, with a hole of zero
// bytes in its middle, the same each time.
func randomFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: random file size")
	}
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	data := make([]byte, size)
	x := uint64(size) | 1
	for i := range data {
		x ^= x << 13 // xorshift64
		x ^= x >> 7
		x ^= x << 17
		data[i] = byte(x >> 32)
	}
	clear(data[size/3 : size/2])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
}

// get is the script command `get CODE URL`, which asks for a page that is to come with this HTTP status, as its standard
// output.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: get code url")
	}
	answer, err := http.Get(args[1])
	ts.Check(err)
	defer answer.Body.Close()
	if code := strconv.Itoa(answer.StatusCode); code != args[0] {
		ts.Fatalf("HTTP status %s, want %s", code, args[0])
	}
	_, err = io.Copy(ts.Stdout(), answer.Body)
	ts.Check(err)
}
