package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"

	"github.com/dnbd/dnbd/nbd"
)

// errSwapProcess is why a device that a process serves does not carry swap. Linux gives the kernel's own connections memory from a
// reserve; a process has none of that, and what is sent to it is dropped when memory is short.
var errSwapProcess = errors.New("--swap: this device would be served by a process, which needs memory itself when there is none left: " +
	"swap takes driver nbd, without TLS, --cow, --relay and a --timeout below 10s, and a server whose blocks the kernel can have")

// swapReserve is how much memory, in bytes, Linux is to keep back so that enough of it is left for connections to be made anew.
const swapReserve = 8 << 20

// swapConnections is how many connections a device that carries swap has unless another number is wanted. For reading from one, Linux
// always has a thread; without memory for another, nobody reads from a second.
const swapConnections = 1

// hold prepares the process for what its device carries.
func (o *attachOptions) hold(log *slog.Logger) error {
	takeWrites(log)
	if !o.lock && !o.swap {
		return nil
	}
	if err := lockMemory(); err != nil {
		return fmt.Errorf("--lock-memory: %w", err)
	}
	if !o.swap {
		return nil
	}
	if err := stayAlive(); err != nil {
		return fmt.Errorf("--swap: %w", err)
	}
	if err := goFirst(); err != nil {
		log.Warn("a lost connection may not be made anew when memory is short", "reason", err)
	}
	if kept, err := keptBack(); err == nil && kept < swapReserve {
		log.Warn("a lost connection may not be made anew when memory is short: set sysctl vm.min_free_kbytes", "is", kept>>10, "least", swapReserve>>10)
	}
	return nil
}

// takeWrites prepares the process for writes by programs of this machine, which are to free memory.
func takeWrites(log *slog.Logger) {
	if err := flushesIO(); err != nil {
		log.Debug("writes may wait for themselves when this machine has little memory", "reason", err)
	}
}

// elsewhere returns an error if a server is on this machine: when memory is short it would itself be part of what was swapped to it.
func elsewhere(ctx context.Context, u nbd.URI) error {
	here := u.Network == "unix"
	if u.Network == "tcp" {
		own, err := net.InterfaceAddrs()
		if err != nil {
			return err
		}
		addrs, err := net.DefaultResolver.LookupIPAddr(ctx, u.Host)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			here = here || a.IP.IsLoopback() || slices.ContainsFunc(own, func(n net.Addr) bool {
				ip, ok := n.(*net.IPNet)
				return ok && ip.IP.Equal(a.IP)
			})
		}
	}
	if here {
		return errors.New("the server is on this machine, and may be swapped out to itself: use the file that it serves as swap")
	}
	return nil
}
