//go:build !unix

package main

import (
	"os"
	"syscall"
)

// newSession has nothing to ask for where there are no sessions.
func newSession() *syscall.SysProcAttr { return nil }

// terminate ends a process: there is no way to ask.
func terminate(p *os.Process) error { return p.Kill() }
