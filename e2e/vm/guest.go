//go:build linux

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/vm/agent"
)

// Guest is a virtual machine. Its methods may be called from many goroutines at once.
type Guest struct {
	// Addr is its IPv4 address. It is not valid without a network.
	Addr netip.Addr

	what    string // kernel and host, for people
	dir     string // with its initramfs and the agent's socket
	console *console
	cmd     *exec.Cmd
	keys    io.WriteCloser // of the console; nil if a terminal has it
	agent   *rpc.Client    // nil if the guest has none
	ended   chan struct{}  // closed when QEMU has ended

	mu       sync.Mutex
	expected bool // that it ends
}

// bootTime is how long a guest may take until its agent answers. It takes 3 s when nothing else runs.
const bootTime = 2 * time.Minute

// Boot starts a guest and waits until it takes orders, which one with an initramfs of the caller's does not. It has ended when the test has; if that failed, the test's log has what was
// on the console. A guest that ends unasked or whose kernel complains fails the test. Where no guest can be booted the test is
// skipped, or, when DNBD_REQUIRE=1, failed.
func (r *Rack) Boot(t testing.TB, k Kernel, o Options) *Guest {
	t.Helper()
	Need(t)
	ctx, cancel := context.WithTimeout(t.Context(), bootTime)
	defer cancel()
	g, err := r.Start(ctx, k, o)
	if g != nil {
		t.Cleanup(func() {
			// A panic comes with its reasons when the guest is already gone.
			if err := g.Kill(); err != nil {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("console of the guest with %s:\n%s", g.what, g.Console())
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Need skips the test, or fails it when DNBD_REQUIRE=1, where no guest can be booted.
func Need(t testing.TB) {
	t.Helper()
	if why := Missing(); why != "" {
		if os.Getenv("DNBD_REQUIRE") == "1" {
			t.Fatal("DNBD_REQUIRE=1, and a virtual machine " + why)
		}
		t.Skip("a virtual machine " + why)
	}
}

// Start is Boot without a test. The guest lives on when ctx ends, until Kill. After an error it is nil, or one that has started
// and does not answer, and is to be killed. One that the emulation fails as it boots is started once more.
func (r *Rack) Start(ctx context.Context, k Kernel, o Options) (*Guest, error) {
	m, err := k.modules()
	if err != nil {
		return nil, fmt.Errorf("boot kernel of %s: %w", k, err)
	}
	what := strings.TrimSpace(m.release + " " + o.Host)
	g, err := r.startOnce(ctx, k, m, o, what)
	if err != nil && g != nil && g.console.misemulated() {
		g.Kill() // with the complaint that is known
		g, err = r.startOnce(ctx, k, m, o, what)
	}
	return g, err
}

// startOnce is Start without the second try.
func (r *Rack) startOnce(ctx context.Context, k Kernel, m *modules, o Options, what string) (*Guest, error) {
	g, err := r.start(k, m, o, what)
	if err != nil {
		return nil, fmt.Errorf("boot %s: %w", what, err)
	}
	if g.agent == nil {
		return g, nil
	}
	if err := g.connect(ctx, o); err != nil {
		return g, fmt.Errorf("boot %s: %w", what, err)
	}
	return g, nil
}

func (r *Rack) start(k Kernel, m *modules, o Options, what string) (*Guest, error) {
	kernels, err := k.dir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "dnbd-vm-")
	if err != nil {
		return nil, err
	}
	g := &Guest{what: what, dir: dir, console: newConsole(), ended: make(chan struct{})}
	if err := r.launch(g, filepath.Join(kernels, "vmlinux"), m, o); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return g, nil
}

// launch starts QEMU, and waits until it is connected to the agent's socket if there is to be an agent.
func (r *Rack) launch(g *Guest, kernel string, m *modules, o Options) error {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(g.dir, "agent")})
	if err != nil {
		return err
	}
	defer listener.Close()
	if !o.bare() {
		if err := r.initramfs(filepath.Join(g.dir, "initramfs"), m, o); err != nil {
			return err
		}
	}
	g.cmd = emulate(context.Background(), kernel, g.dir, o)
	g.cmd.Stdout, g.cmd.Stderr = g.console, g.console
	if o.Screen != nil {
		g.cmd.Stdout = io.MultiWriter(g.console, o.Screen)
	}
	if o.Keys != nil {
		g.cmd.Stdin = o.Keys
	} else if g.keys, err = g.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := g.cmd.Start(); err != nil {
		return err
	}
	go func() { // ends with QEMU, which Kill ends
		g.cmd.Wait() // why it ended is on the console
		g.console.close()
		listener.Close()
		close(g.ended)
	}()
	if o.bare() {
		return nil
	}
	conn, err := listener.Accept()
	if err != nil {
		<-g.ended
		return fmt.Errorf("%s ended: %s", emulator, g.Console())
	}
	g.agent = rpc.NewClient(conn)
	return nil
}

// connect waits until the agent answers, and brings the network up.
func (g *Guest) connect(ctx context.Context, o Options) error {
	if err := g.call(ctx, "Hello", agent.Nothing{}, &agent.Nothing{}); err != nil {
		return err
	}
	if o.Lab == nil {
		return nil
	}
	g.Addr = o.Lab.Addr(o.Host)
	_, err := g.Run(ctx, "sh", "-ec", fmt.Sprintf(`ip link set lo up
		ip addr add %v/16 brd + dev eth0
		ip addr add %v/64 dev eth0
		ip link set eth0 mtu %d up
		ip route add 224.0.0.0/4 dev eth0`, g.Addr, o.Lab.Addr6(o.Host), o.Lab.MTU))
	return err
}

// call calls a method of the agent.
func (g *Guest) call(ctx context.Context, method string, args, reply any) error {
	if g.agent == nil {
		return fmt.Errorf("guest with %s: %s: it has an initramfs without our agent", g.what, method)
	}
	call := g.agent.Go(agent.Name+"."+method, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		var said rpc.ServerError // by the agent; everything else is the end of the connection
		if call.Error == nil || errors.As(call.Error, &said) {
			return call.Error
		}
	case <-g.ended:
	case <-ctx.Done():
		return fmt.Errorf("guest with %s: %s: %w", g.what, method, ctx.Err())
	}
	select {
	case <-g.ended: // soon, as it has let go of the agent
	case <-ctx.Done():
	}
	return fmt.Errorf("the guest with %s has ended", g.what)
}

// Console returns what the guest has printed there so far.
func (g *Guest) Console() string { return g.console.String() }

// AwaitConsole waits until text was printed on the console.
func (g *Guest) AwaitConsole(ctx context.Context, text string) error {
	if err := g.console.await(ctx, text); err != nil {
		return fmt.Errorf("guest with %s: wait for %q on the console: %w", g.what, text, err)
	}
	return nil
}

// Type types text on the console.
func (g *Guest) Type(text string) error {
	if g.keys == nil {
		return errors.New("type on the console: a terminal has it")
	}
	_, err := io.WriteString(g.keys, text)
	return err
}

// PowerOff switches the guest off, as its kernel does, and waits until it has ended.
func (g *Guest) PowerOff(ctx context.Context) error {
	g.expectEnd()
	// It may end before it has answered, which counts as done.
	if err := g.call(ctx, "PowerOff", agent.Nothing{}, &agent.Nothing{}); err != nil {
		select {
		case <-g.ended:
		default:
			return err
		}
	}
	return g.AwaitEnd(ctx)
}

// AwaitEnd waits until the guest has switched itself off.
func (g *Guest) AwaitEnd(ctx context.Context) error {
	g.expectEnd()
	select {
	case <-g.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the guest with %s to end: %w", g.what, ctx.Err())
	}
}

func (g *Guest) expectEnd() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.expected = true
}

// Kill ends the guest as a power cut does, and removes what it was made of. It returns an error if the guest had ended unasked, or
// if its kernel has complained about something. A second Kill returns the same.
func (g *Guest) Kill() error {
	var err error
	select {
	case <-g.ended:
		g.mu.Lock()
		if !g.expected {
			err = fmt.Errorf("the guest with %s ended unasked", g.what)
		}
		g.mu.Unlock()
	default:
		g.expectEnd()
		g.cmd.Process.Signal(syscall.SIGKILL)
		<-g.ended
	}
	if g.agent != nil {
		g.agent.Close()
	}
	if lines := g.console.complaints(); len(lines) > 0 {
		err = errors.Join(err, fmt.Errorf("the kernel of the guest with %s complains: %s", g.what, strings.Join(lines, "; ")))
	}
	return errors.Join(err, os.RemoveAll(g.dir))
}
