//go:build unix

package main

import (
	"os"
	"syscall"
)

// newSession starts a process in a session of its own, so that it outlives the terminal.
func newSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// terminate asks a process to stop.
func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
