//go:build unix

package main

import (
	"io"
	"log/syslog"
)

// systemLog is where processes write that have no terminal. Where there is no such log nothing is written.
func systemLog() io.Writer {
	w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_NOTICE, nbdServer)
	if err != nil {
		return io.Discard
	}
	return w
}
