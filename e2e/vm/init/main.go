//go:build linux

// Command init is the first process of a guest: it makes the machine ready and starts the agent that takes the host's orders.
package main

import (
	"bufio"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/e2e/vm/agent"
)

func main() {
	var err error
	if os.Getpid() == 1 {
		err = first()
	} else {
		err = serve()
	}
	fmt.Println("init:", err)
	// The host takes it for what it is: a guest that has ended without being told.
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// first is the work of the first process.
func first() error {
	if err := prepare(); err != nil {
		return err
	}
	command, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	// The name begins like that of a process that holds the root: systemd leaves it alone at shutdown.
	process, err := os.StartProcess("/init", []string{"@agent"}, &os.ProcAttr{
		Env: os.Environ(), Files: []*os.File{nil, os.Stdout, os.Stderr, w},
	})
	if err != nil {
		return err
	}
	w.Close()
	go reap(process.Pid)
	if strings.Contains(string(command), agent.Shell) {
		if err := shell(); err != nil {
			return err
		}
	}
	var to agent.SwitchRootArgs
	if err := gob.NewDecoder(r).Decode(&to); err != nil {
		return fmt.Errorf("wait for orders of the agent: %w", err)
	}
	return switchRoot(to)
}

// prepare mounts what programs expect, and loads the modules.
func prepare() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"devpts", "/dev/pts"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for name, value := range map[string]string{"PATH": "/bin:/sbin:/usr/bin:/usr/sbin", "HOME": "/root", "TERM": "linux"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	// Its names for what is there as a program of its own are not made.
	exec.Command("/bin/busybox", "--install", "-s", "/bin").Run()
	if err := os.Symlink("/bin/modprobe", "/sbin/modprobe"); err != nil { // where the kernel looks for it
		return err
	}
	return loadModules()
}

func loadModules() error {
	list, err := os.Open(agent.Modules)
	if err != nil {
		return err
	}
	defer list.Close()
	for lines := bufio.NewScanner(list); lines.Scan(); {
		f, err := os.Open(lines.Text())
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) { // the kernel may have asked for it meanwhile
			return fmt.Errorf("load %s: %w", lines.Text(), err)
		}
	}
	return nil
}

// reap takes notice of ended processes that nobody else does. Without the agent the machine is of no use.
func reap(agent int) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if pid == agent || err != nil && !errors.Is(err, unix.EINTR) {
			fmt.Println("init: the agent has ended")
			unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}
	}
}

// shell starts one that has the console as its terminal, so that job control works.
func shell() error {
	console, err := os.OpenFile("/dev/ttyS0", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer console.Close()
	_, err = os.StartProcess("/bin/busybox", []string{"busybox", "setsid", "cttyhack", "sh", "-l"}, &os.ProcAttr{
		Env: os.Environ(), Dir: "/root", Files: []*os.File{console, console, console},
	})
	return err
}

// switchRoot makes a mounted file system the root and gives the machine to the init there.
func switchRoot(to agent.SwitchRootArgs) error {
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		// The agent goes on with those of the initramfs.
		if err := unix.Mount(dir, to.Root+dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s in %s: %w", dir, to.Root, err)
		}
	}
	if err := os.Chdir(to.Root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", to.Root, err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return fmt.Errorf("exec %s: %w", to.Init[0], unix.Exec(to.Init[0], to.Init, os.Environ()))
}

// serve is the work of the agent. It ends when the host does.
func serve() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	defer port.Close()
	first := gob.NewEncoder(os.NewFile(3, "the first process"))
	server := rpc.NewServer()
	if err := server.RegisterName(agent.Name, agent.New(func(to agent.SwitchRootArgs) error { return first.Encode(to) })); err != nil {
		return err
	}
	server.ServeConn(port)
	return io.EOF
}

// openPort opens the serial port that is called agent.Port.
func openPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		if name, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(name)) == agent.Port {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no serial port is called %s", agent.Port)
}
