package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain is also the process that other tests talk to, kill and wait for: see start.
func TestMain(m *testing.M) {
	if name := os.Getenv("DNBD_TEST_SERVE"); name != "" {
		serve(name)
		return
	}
	os.Exit(m.Run())
}

// serve answers at a control socket until it is told to detach.
func serve(name string) {
	detached := make(chan struct{})
	s, err := Listen(name, Handler{
		Status: func() Status { return Status{Version: "1.2.3", Attachment: &Attachment{Device: "/dev/" + name}} },
		Detach: func(context.Context) error {
			close(detached)
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	<-detached
	if err := s.Close(); err != nil {
		fmt.Println(err)
	}
	fmt.Println("gone")
}

// start runs serve in a process of its own and returns it with what it prints after it is ready.
func start(t *testing.T, name string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DNBD_TEST_SERVE="+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	return cmd, r
}

// useDir has Dir be an empty directory. Paths of sockets are short, so it is not the test's own.
func useDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dnbd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("DNBD_RUNDIR", dir)
	return dir
}

func listen(t *testing.T, name string, h Handler) *Service {
	t.Helper()
	s, err := Listen(name, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStatusComesBackAsItWasGiven(t *testing.T) {
	dir := useDir(t)
	given := Status{
		Version: "1.2.3", Started: time.Unix(1e9, 0).UTC(), Group: "239.0.0.1:10810", Interfaces: []string{"eth0"},
		Attachment: &Attachment{
			Device: "/dev/dnbd0", Image: Image{Name: "x", Size: 1 << 40}, Traffic: Traffic{Refused: 7},
			Replicas: []Replica{{Server: 9, State: "live", RTT: 250, Share: .5}},
		},
	}
	listen(t, "dnbd0", Handler{Status: func() Status { return given }})
	p, err := Find(t.Context(), "dnbd0")
	if err != nil || p.Err != nil {
		t.Fatal(err, p)
	}
	want := given
	want.API, want.PID, want.Socket = API, os.Getpid(), filepath.Join(dir, "dnbd0.sock")
	got, _ := json.Marshal(p.Status)
	if b, _ := json.Marshal(want); string(got) != string(b) {
		t.Errorf("got  %s\nwant %s", got, b)
	}
	if p.Name != "dnbd0" || p.Path != want.Socket {
		t.Errorf("the process is %s at %s", p.Name, p.Path)
	}
	if fi, err := os.Stat(p.Path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v, %v", fi.Mode(), err)
	}
}

func TestASocketIsTakenOnce(t *testing.T) {
	useDir(t)
	s := listen(t, "dnbd0", Handler{})
	if _, err := Listen("dnbd0", Handler{}); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), s.Path()) {
		t.Errorf("a second process got the socket: %v", err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is there after Close: %v", err)
	}
	listen(t, "dnbd0", Handler{})
}

func TestTheSocketOfAKilledProcessIsTakenOver(t *testing.T) {
	useDir(t)
	cmd, _ := start(t, "dnbd0")
	live, dead, err := List(t.Context())
	if err != nil || len(live) != 1 || live[0].Status.Attachment.Device != "/dev/dnbd0" || len(dead) != 0 {
		t.Fatalf("List: %v, %v, %v", live, dead, err)
	}
	if err := Remove(live[0].Path); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if live, dead, err = List(t.Context()); err != nil || len(live) != 0 || len(dead) != 1 {
		t.Fatalf("List after the kill: %v, %v, %v", live, dead, err)
	}
	if _, err := Find(t.Context(), "dnbd0"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Find after the kill: %v", err)
	}
	s := listen(t, "dnbd0", Handler{Status: func() Status { return Status{} }})
	if err := Remove(s.Path()); err != nil {
		t.Fatal(err)
	}
	if p, err := Find(t.Context(), "dnbd0"); err != nil || p.Err != nil {
		t.Errorf("Remove took a live process's socket away: %v", err)
	}
}

func TestRemoveTakesADeadSocketAway(t *testing.T) {
	dir := useDir(t)
	path := filepath.Join(dir, "x.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for range 2 {
		if err := Remove(path); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestDetachReturnsWhenTheProcessIsGone(t *testing.T) {
	useDir(t)
	cmd, out := start(t, "dnbd0")
	p, err := Find(t.Context(), "dnbd0")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(out); err != nil || string(said) != "gone\n" {
		t.Errorf("the process says %q, %v", said, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := Find(t.Context(), "dnbd0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find after Detach: %v", err)
	}
}

func TestARefusalReachesTheCaller(t *testing.T) {
	useDir(t)
	var got AddCache
	listen(t, "dnbd0", Handler{
		Status: func() Status { return Status{} },
		Detach: func(context.Context) error { return errors.New("/dev/dnbd0 is in use by cat (process 7)") },
		AddCache: func(_ context.Context, r AddCache) error {
			got = r
			return nil
		},
	})
	listen(t, "serve", Handler{Status: func() Status { return Status{} }})
	p, err := Find(t.Context(), "dnbd0")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Detach(t.Context()); err == nil || err.Error() != "/dev/dnbd0 is in use by cat (process 7)" {
		t.Errorf("Detach: %v", err)
	}
	want := AddCache{File: "/c", Size: 1 << 33}
	if err := p.AddCache(t.Context(), want); err != nil || got != want {
		t.Errorf("AddCache: %v, arrived as %+v", err, got)
	}
	for _, r := range []AddCache{{File: "relative"}, {File: "/c", Size: -1}} {
		if err := p.AddCache(t.Context(), r); err == nil || !strings.Contains(err.Error(), "absolute path") {
			t.Errorf("AddCache(%+v): %v", r, err)
		}
	}
	server, err := Find(t.Context(), "serve")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{server.Detach(t.Context()), server.AddCache(t.Context(), want)} {
		if err == nil || !strings.Contains(err.Error(), "no attachment") {
			t.Errorf("a server agreed: %v", err)
		}
	}
}

// strange listens at a control socket and answers every request with what answer writes.
func strange(t *testing.T, name string, answer http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(Dir(), name+suffix))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: answer}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
}

func TestProcessesThatDoNotAnswerAreListed(t *testing.T) {
	useDir(t)
	hung, err := net.Listen("unix", filepath.Join(Dir(), "hung.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	strange(t, "future", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"api": 99}`) })
	strange(t, "garbage", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\x00garbage") })
	strange(t, "broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	listen(t, "well", Handler{Status: func() Status { return Status{} }})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	live, dead, err := List(ctx)
	if err != nil || len(dead) != 0 {
		t.Fatal(dead, err)
	}
	var names []string
	for _, p := range live {
		names = append(names, p.Name)
		want := map[string]string{
			"hung": "does not answer", "future": "speaks version 99", "garbage": "invalid character", "broken": "418",
		}[p.Name]
		if want == "" && p.Err != nil || want != "" && (p.Err == nil || !strings.Contains(p.Err.Error(), want)) {
			t.Errorf("%s: %v, want %q", p.Name, p.Err, want)
		}
	}
	if !slices.Equal(names, []string{"broken", "future", "garbage", "hung", "well"}) {
		t.Errorf("listed: %v", names)
	}
}

func TestAProcessThatDiesWhileItIsAskedIsGone(t *testing.T) {
	dir := useDir(t)
	path := filepath.Join(dir, "dying.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 3 {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if n == 2 {
				l.Close()
			}
			conn.Close()
		}
	}()
	if p, err := Find(t.Context(), "dying"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Find: %+v, %v", p, err)
	}
	l.Close()
	<-done
}

func TestNoDirectoryMeansNoProcesses(t *testing.T) {
	t.Setenv("DNBD_RUNDIR", filepath.Join(useDir(t), "missing"))
	if live, dead, err := List(t.Context()); err != nil || len(live)+len(dead) != 0 {
		t.Errorf("List: %v, %v, %v", live, dead, err)
	}
	if _, err := Find(t.Context(), "dnbd0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find: %v", err)
	}
}

func TestADirectoryOfOthersIsRefused(t *testing.T) {
	dir := useDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("dnbd0", Handler{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory that all can write to: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DNBD_RUNDIR", file)
	if _, err := Listen("dnbd0", Handler{}); err == nil || !strings.Contains(err.Error(), "DNBD_RUNDIR") {
		t.Errorf("a file: %v", err)
	}
}

func TestNamesFitASocketPath(t *testing.T) {
	long := "/tmp/" + strings.Repeat("deep/", 30) + "nbd.sock"
	for device, want := range map[string]string{
		"/dev/dnbd0":      "dnbd0",
		"/dev/disk/dnbd0": "disk_dnbd0",
		"/tmp//a/../b":    "tmp_b",
		"/tmp/a.sock":     "tmp_a.sock",
	} {
		if got := Name(device); got != want {
			t.Errorf("Name(%q) = %q, want %q", device, got, want)
		}
	}
	if a, b := Name(long), Name("/x"+long); len(a) != maxName || len(b) != maxName || a == b {
		t.Errorf("long paths: %q, %q", a, b)
	}
}

func TestTimeLimitsReachTheProcess(t *testing.T) {
	useDir(t)
	var got Set
	listen(t, "dnbd0", Handler{
		Status: func() Status { return Status{} },
		Set:    func(_ context.Context, r Set) error { got = r; return nil },
	})
	listen(t, "serve", Handler{Status: func() Status { return Status{} }})
	p, err := Find(t.Context(), "dnbd0")
	if err != nil {
		t.Fatal(err)
	}
	want := Set{Timeout: 3 * time.Second, IOTimeout: time.Minute}
	if err := p.Set(t.Context(), want); err != nil || got != want {
		t.Errorf("Set: %v, arrived as %+v", err, got)
	}
	for _, r := range []Set{{}, {Timeout: -1}} {
		if err := p.Set(t.Context(), r); err == nil || !strings.Contains(err.Error(), "want positive ones") {
			t.Errorf("Set %+v: %v", r, err)
		}
	}
	if err := p.Force(t.Context()); err == nil || !strings.Contains(err.Error(), "no attachment that can be released") {
		t.Errorf("Force: %v", err)
	}
	if p, err = Find(t.Context(), "serve"); err != nil {
		t.Fatal(err)
	}
	if err := p.Set(t.Context(), want); err == nil || !strings.Contains(err.Error(), "no attachment with time limits") {
		t.Errorf("Set: %v", err)
	}
}
