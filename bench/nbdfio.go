//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// nbdReads is how many small reads a server answers.
var nbdReads = scenario{
	name:  "reads",
	title: "random reads, 4 KiB, 64 at a time",
	about: "fio with its NBD engine, over one connection, from the page cache. *CPU* is the server's for each " +
		"operation. QEMU 7.2's server hangs at times when it has many requests at once over TCP, so over TCP it is " +
		"left out, here and where random writes are measured.",
	run:     runNBDReads,
	timeout: 5 * time.Minute,
}

func runNBDReads(ctx context.Context, r *rig, s *section) error {
	path, _, err := r.disk()
	if err != nil {
		return err
	}
	return r.runRaces(ctx, s, r.either(5, 2), r.deep(export{path: path}, "randread", atLeast(0.9, 1.3))...)
}

// nbdWrites is how fast a server writes.
var nbdWrites = scenario{
	name:  "writes",
	title: "writes",
	about: "fio as before, to a file on a tmpfs, so that no disk is measured: at random, 4 KiB, 64 at a time; and from " +
		"beginning to end in requests of 1 MiB, 4 at a time, and a flush at the end that counts.",
	run:     runNBDWrites,
	timeout: 6 * time.Minute,
}

func runNBDWrites(ctx context.Context, r *rig, s *section) error {
	dir, err := os.MkdirTemp("/dev/shm", "dnbd-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	size := int64(r.either(1024, 256) * mib)
	e := export{path: filepath.Join(dir, "disk.img"), writable: true}
	if err := fill(e.path, size); err != nil {
		return err
	}
	races := r.deep(e, "randwrite", atLeast(0.9, 1.2))
	for _, network := range []string{"unix", "tcp"} {
		e.network = network
		races = append(races, race{
			label:    network + ", sequential",
			export:   e,
			programs: everyNBD,
			load:     sequentialWrites(size),
			unit:     "MB/s",
			result:   atLeast(0.9, 1.2),
			work:     perGiBMoved,
		})
	}
	return r.runRaces(ctx, s, r.either(5, 2), races...)
}

// deep are races of random operations, 4 KiB, 64 at a time, over either network.
func (r *rig) deep(e export, mode string, l limit) []race {
	var races []race
	for _, network := range []string{"unix", "tcp"} {
		e.network = network
		programs := everyNBD
		if network == "tcp" {
			programs = []nbdProgram{dnbdServer, nbdkit, nbdServer}
		}
		races = append(races, race{
			label:    network + ", " + mode,
			export:   e,
			programs: programs,
			load:     randomly(mode, 64, fioReport.operations),
			unit:     "thousand/s",
			result:   l,
			work:     perOperation,
		})
	}
	return races
}

// nbdLatency is how long one small read takes.
var nbdLatency = scenario{
	name:  "latency",
	title: "random reads, 4 KiB, one at a time",
	about: "fio as before. The time is the median read's, from before its request is sent until its reply is there; " +
		"most of it goes into waking up the other side.",
	run:     runNBDLatency,
	timeout: 5 * time.Minute,
}

func runNBDLatency(ctx context.Context, r *rig, s *section) error {
	path, _, err := r.disk()
	if err != nil {
		return err
	}
	var races []race
	for _, network := range []string{"unix", "tcp"} {
		races = append(races, race{
			label:    network,
			export:   export{path: path, network: network},
			programs: everyNBD,
			load:     randomly("randread", 1, fioReport.latency),
			unit:     "µs",
			result:   atMost(1.2, 0.9),
			work:     perOperation,
		})
	}
	return r.runRaces(ctx, s, r.either(5, 2), races...)
}

// randomly is a load of random operations of 4 KiB, depth at a time, for a while.
func randomly(mode string, depth int, result func(fioReport) float64) func(context.Context, *rig, *nbdProcess) (done, error) {
	return func(ctx context.Context, r *rig, s *nbdProcess) (done, error) {
		rep, err := r.fio(ctx, s, "--rw="+mode, "--bs=4k", fmt.Sprintf("--iodepth=%d", depth), "--norandommap",
			"--lat_percentiles=1", "--time_based", fmt.Sprintf("--runtime=%dms", r.either(1500, 500)))
		return done{result: result(rep), amount: rep.total()}, err
	}
}

// sequentialWrites is a load that writes a file of a size. Its result is MB/s.
func sequentialWrites(size int64) func(context.Context, *rig, *nbdProcess) (done, error) {
	return func(ctx context.Context, r *rig, s *nbdProcess) (done, error) {
		rep, err := r.fio(ctx, s, "--rw=write", "--bs=1m", "--iodepth=4", "--end_fsync=1")
		return done{result: float64(size) / 1e3 / rep.Milliseconds, amount: float64(size) / gib}, err
	}
}

// fioReport is what fio says about a job.
type fioReport struct {
	Read, Write  fioDirection
	Milliseconds float64 `json:"job_runtime"`
}

type fioDirection struct {
	Operations float64 `json:"total_ios"`
	Runtime    float64 // in milliseconds
	Latency    struct {
		Percentile map[string]float64 // in nanoseconds
	} `json:"lat_ns"`
}

func (f fioReport) total() float64 { return f.Read.Operations + f.Write.Operations }

// operations is how many there were, in thousands a second.
func (f fioReport) operations() float64 { return f.total() / max(f.Read.Runtime, f.Write.Runtime) }

// latency is the median read's, in microseconds.
func (f fioReport) latency() float64 { return f.Read.Latency.Percentile["50.000000"] / 1e3 }

// fio runs fio's NBD engine on a server.
func (r *rig) fio(ctx context.Context, s *nbdProcess, args ...string) (fioReport, error) {
	file := filepath.Join(r.dir, "fio.json")
	command := append([]string{"fio", "--name=load", "--ioengine=nbd", "--uri=" + s.uri("")}, args...)
	r.recordNBD("client", s.export, command)
	command = append(command, "--output-format=json", "--output="+file)
	p, err := start("fio", exec.CommandContext(ctx, command[0], command[1:]...))
	if err != nil {
		return fioReport{}, err
	}
	defer p.stdin.Close()
	if err := p.wait(); err != nil {
		return fioReport{}, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return fioReport{}, err
	}
	var all struct {
		Jobs []fioReport
	}
	// What fio has to say besides comes before the report.
	_, object, _ := strings.Cut(string(text), "{")
	if err := json.Unmarshal([]byte("{"+object), &all); err != nil {
		return fioReport{}, fmt.Errorf("fio's report: %w: %.200s", err, text)
	}
	if len(all.Jobs) != 1 || all.Jobs[0].total() == 0 {
		return fioReport{}, fmt.Errorf("fio did nothing: %.200s", text)
	}
	return all.Jobs[0], nil
}
