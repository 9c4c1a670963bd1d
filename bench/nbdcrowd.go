//go:build linux

package main

import (
	"context"
	"fmt"
	"time"
)

// nbdMemory is what many connections hold.
var nbdMemory = scenario{
	name:  "memory",
	title: "memory with 200 connections",
	about: "200 connections over a unix socket read at random, with 64 requests of each in flight. The figure is the " +
		"most that the server's process had resident, what it maps of files included. nbd-server is left out: it has " +
		"a process for each connection.",
	run:     runNBDMemory,
	timeout: 4 * time.Minute,
}

func runNBDMemory(ctx context.Context, r *rig, s *section) error {
	e, l, err := r.crowdLoad()
	if err != nil {
		return err
	}
	l.connections, l.depth = 200, 64
	for range r.either(2, 1) {
		for _, program := range []nbdProgram{dnbdServer, nbdkit, qemuNBD} {
			for _, block := range []int{4 << 10, 64 << 10} {
				l.block = block
				_, memory, err := r.readAt(ctx, program, e, l)
				if err != nil {
					return fmt.Errorf("%s: %w", program.name, err)
				}
				f := s.add(fmt.Sprintf("%s, requests of %d KiB", program.name, block>>10), "MiB", memory)
				if program.name == dnbdServer.name {
					f.must(atMost(256, 64))
				}
			}
		}
	}
	return nil
}

// nbdCrowd is whether many connections get together what one gets, and each its share.
var nbdCrowd = scenario{
	name:  "crowd",
	title: "100 connections at once",
	about: "One connection over a unix socket, and then 100, read 64 KiB at random, with 4 requests of each in flight. " +
		"*Throughput* is that of all 100 ÷ that of one; *longest ÷ median* is of the times that all requests of the " +
		"100 took, measured at the client.",
	run:     runNBDCrowd,
	timeout: 4 * time.Minute,
}

func runNBDCrowd(ctx context.Context, r *rig, s *section) error {
	e, l, err := r.crowdLoad()
	if err != nil {
		return err
	}
	for range r.either(4, 2) {
		for _, program := range everyNBD {
			one, _, err := r.readAt(ctx, program, e, l)
			if err != nil {
				return fmt.Errorf("%s, one connection: %w", program.name, err)
			}
			crowd := l
			crowd.connections = 100
			many, _, err := r.readAt(ctx, program, e, crowd)
			if err != nil {
				return fmt.Errorf("%s, 100 connections: %w", program.name, err)
			}
			s.add(program.name+": one connection", "MB/s", one.perSecond()*float64(l.block)/1e6)
			together := s.add(program.name+": throughput of 100 ÷ one's", "", many.perSecond()/one.perSecond())
			tail := s.add(program.name+": longest ÷ median", "", float64(many.longest())/float64(many.median()))
			if program.name == dnbdServer.name {
				together.must(atLeast(0.9, 1.0))
				tail.must(atMost(20, 5))
			}
		}
	}
	return nil
}

// crowdLoad is what crowds read, and how, unless they change it.
func (r *rig) crowdLoad() (export, nbdReader, error) {
	path, size, err := r.disk()
	during := time.Duration(r.either(1500, 500)) * time.Millisecond
	return export{path: path, network: "unix"}, nbdReader{connections: 1, depth: 4, block: 64 << 10, size: size, during: during}, err
}

// readAt lets a load read from a server, and returns the most memory that the server's process had resident, in MiB.
func (r *rig) readAt(ctx context.Context, program nbdProgram, e export, l nbdReader) (g readings, memory float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	s, err := r.startNBD(ctx, program, e)
	if err != nil {
		return g, 0, err
	}
	defer s.stop()
	if g, err = l.run(ctx, s); err != nil {
		return g, 0, err
	}
	memory, err = peakMemory(s.pid)
	return g, memory, err
}
