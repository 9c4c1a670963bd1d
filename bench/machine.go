//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what the figures were measured on.
type machine struct {
	kernel, processor string
	cores             int
	memory            uint64 // in bytes
	versions          []string
}

// thisMachine says so, with the versions that some commands print.
func thisMachine(versions [][]string) machine {
	m := machine{cores: runtime.NumCPU(), processor: runtime.GOARCH}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.kernel = strings.TrimSpace(string(text))
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				m.processor = strings.TrimSpace(value)
				break
			}
		}
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m.memory = info.Totalram * uint64(info.Unit)
	}
	for _, command := range versions {
		if line, err := output(command[0], command[1:]...); err == nil {
			m.versions = append(m.versions, strings.ReplaceAll(line, "\t", " "))
		}
	}
	m.versions = append(m.versions, runtime.Version())
	return m
}

func (m machine) String() string {
	return fmt.Sprintf("%d cores (%s), %d GiB of memory, Linux %s", m.cores, m.processor, (m.memory+gib/2)/gib, m.kernel)
}

// load is the load average of the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
