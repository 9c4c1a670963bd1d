//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// export is a file that a server offers to NBD clients, under the name exportName, and where.
type export struct {
	path     string
	network  string // "unix" or "tcp"
	address  string // set when a server is started
	writable bool
	tls      bool
}

const exportName = "disk"

// nbdServerPID is the file in which nbd-server leaves its process's number: it daemonises, or serves one connection only.
const nbdServerPID = "nbd-server.pid"

// uri is where clients find the export; those of TLS have their authority in dir.
func (e export) uri(dir string) string {
	switch {
	case e.network == "unix":
		return "nbd+unix:///" + exportName + "?socket=" + e.address
	case e.tls:
		return "nbds://" + e.address + "/" + exportName + "?tls-certificates=" + dir
	}
	return "nbd://" + e.address + "/" + exportName
}

// nbdProgram is an NBD server that can be had.
type nbdProgram struct {
	name    string
	command func(r *rig, e export) ([]string, error)
	daemon  string // the file below rig.dir in which it leaves the number of its process, if it does not stay in the foreground
}

var (
	dnbdServer = nbdProgram{name: "dnbd", command: dnbdCommand}
	nbdkit     = nbdProgram{name: "nbdkit", command: nbdkitCommand}
	qemuNBD    = nbdProgram{name: "qemu-nbd", command: qemuCommand}
	nbdServer  = nbdProgram{name: "nbd-server", command: nbdServerCommand, daemon: nbdServerPID}
)

// dnbdCommand is the server under test.
func dnbdCommand(r *rig, e export) ([]string, error) {
	command := []string{r.dnbd, "serve", "--group", "none", "--nbd", strings.TrimPrefix(e.network+":"+e.address, "tcp:")}
	if e.writable {
		command = append(command, "--writable")
	}
	if e.tls {
		command = append(command, "--tls", "required",
			"--tls-cert", r.certificate("server-cert.pem"), "--tls-key", r.certificate("server-key.pem"))
	}
	return append(command, exportName+"="+e.path), nil
}

func nbdkitCommand(r *rig, e export) ([]string, error) {
	command := []string{"nbdkit", "-f"}
	if !e.writable {
		command = append(command, "-r")
	}
	if e.tls {
		command = append(command, "--tls=require", "--tls-certificates="+r.certificate(""))
	}
	if e.network == "unix" {
		return append(command, "-U", e.address, "file", e.path), nil
	}
	host, port, err := net.SplitHostPort(e.address)
	return append(command, "-i", host, "-p", port, "file", e.path), err
}

func qemuCommand(r *rig, e export) ([]string, error) {
	command := []string{"qemu-nbd", "-t", "-f", "raw", "-x", exportName, "-e", "256"}
	if !e.writable {
		command = append(command, "-r")
	}
	if e.tls {
		command = append(command, "--tls-creds", "tls",
			"--object", "tls-creds-x509,id=tls,endpoint=server,verify-peer=no,dir="+r.certificate(""))
	}
	if e.network == "unix" {
		return append(command, "-k", e.address, e.path), nil
	}
	host, port, err := net.SplitHostPort(e.address)
	return append(command, "-b", host, "-p", port, e.path), err
}

// nbdServerCommand writes a configuration file: a command line alone has neither unix sockets nor names.
func nbdServerCommand(r *rig, e export) ([]string, error) {
	var generic string
	if e.network == "unix" {
		generic = "unixsock = " + e.address + "\n"
	} else {
		host, port, err := net.SplitHostPort(e.address)
		if err != nil {
			return nil, err
		}
		generic = "listenaddr = " + host + "\nport = " + port + "\n"
	}
	if e.tls {
		generic += "certfile = " + r.certificate("server-cert.pem") + "\nkeyfile = " + r.certificate("server-key.pem") + "\n"
	}
	config := filepath.Join(r.dir, "nbd-server.conf")
	text := fmt.Sprintf("[generic]\n%s[%s]\nexportname = %s\nflush = true\nreadonly = %t\n", generic, exportName, e.path, !e.writable)
	return []string{"nbd-server", "-C", config, "-p", filepath.Join(r.dir, nbdServerPID)}, os.WriteFile(config, []byte(text), 0o644)
}

// nbdProcess is a server that runs.
type nbdProcess struct {
	export
	name string
	pid  int
	stop func()
}

// startNBD starts a server and waits until it serves. The caller stops it.
func (r *rig) startNBD(ctx context.Context, program nbdProgram, e export) (*nbdProcess, error) {
	e.address = filepath.Join(r.dir, program.name+".sock")
	os.Remove(e.address) // some leave theirs behind
	if e.network == "tcp" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		e.address = l.Addr().String() // free a moment ago
		l.Close()
	}
	command, err := program.command(r, e)
	if err != nil {
		return nil, err
	}
	r.recordNBD("server", e, command)
	p, err := start(program.name, exec.CommandContext(ctx, command[0], command[1:]...))
	if err != nil {
		return nil, err
	}
	s := &nbdProcess{export: e, name: program.name, pid: p.cmd.Process.Pid, stop: p.stop}
	if program.daemon != "" {
		if err := s.follow(ctx, p, filepath.Join(r.dir, program.daemon)); err != nil {
			p.stop()
			return nil, err
		}
	}
	err = poll(ctx, program.name, func() (bool, error) {
		if program.daemon == "" && p.hasEnded() {
			return false, p.ended()
		}
		return s.greets(), nil
	})
	if err == nil {
		err = s.quiet(ctx)
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// greets says whether the server begins to negotiate with a client. nbd-server listens a while before that, and prepares for TLS.
func (s *nbdProcess) greets() bool {
	c, err := net.DialTimeout(s.network, s.address, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	_, err = io.ReadFull(c, make([]byte, 18)) // NBDMAGIC, IHAVEOPT, flags
	return err == nil
}

// follow finds the daemon that p, which ends by itself, leaves behind.
func (s *nbdProcess) follow(ctx context.Context, p *process, pidFile string) error {
	if err := p.wait(); err != nil {
		return err
	}
	p.stdin.Close()
	err := poll(ctx, pidFile, func() (bool, error) {
		text, err := os.ReadFile(pidFile)
		if err != nil {
			return false, nil
		}
		s.pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil, nil // it may be half written
	})
	if err != nil {
		return err
	}
	s.stop = func() {
		syscall.Kill(s.pid, syscall.SIGTERM) // it may have ended meanwhile
		patience, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		err := poll(patience, s.name+" to end", func() (bool, error) {
			c, err := net.Dial(s.network, s.address)
			if err == nil {
				c.Close()
			}
			return err != nil, nil
		})
		if err != nil {
			syscall.Kill(s.pid, syscall.SIGKILL)
		}
		os.Remove(pidFile)
	}
	return nil
}

// quiet waits until the server's processes for single connections have ended, so that their time is counted with its own.
func (s *nbdProcess) quiet(ctx context.Context) error {
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", s.pid)
	return poll(ctx, s.name+" to end connections", func() (bool, error) {
		text, err := os.ReadFile(children)
		return len(text) == 0, err
	})
}

// recordNBD keeps a command line for the report. Ports and folders vary; the report has the usual port and no folder.
func (r *rig) recordNBD(where string, e export, command []string) {
	usual := make([]string, len(command))
	for i, arg := range command {
		arg = strings.ReplaceAll(arg, filepath.Dir(e.path)+"/", "")
		if _, port, err := net.SplitHostPort(e.address); err == nil {
			arg = strings.ReplaceAll(arg, port, "10809")
		}
		usual[i] = arg
	}
	r.record(where, usual[0], usual[1:])
}
