//go:build linux

package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheFigureIsTheMedian(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		median  float64
		spread  string
	}{
		{[]float64{3}, 3, ""},
		{[]float64{9, 1, 2}, 2, "1.000 – 9.000"},
		{[]float64{4, 1, 100, 2}, 3, "1.000 – 100"},
	} {
		f := figure{samples: c.samples}
		if got := f.median(); got != c.median {
			t.Errorf("median of %v is %v, want %v", c.samples, got, c.median)
		}
		if got := f.spread(); got != c.spread {
			t.Errorf("spread of %v is %q, want %q", c.samples, got, c.spread)
		}
	}
}

func TestTheVerdictFollowsTheMedian(t *testing.T) {
	for _, c := range []struct {
		limit  limit
		sample float64
		want   string
	}{
		{atMost(1.07, 1.055), 1.055, aimReached},
		{atMost(1.07, 1.055), 1.06, leastReached},
		{atMost(1.07, 1.055), 1.08, missed},
		{atLeast(0.6, 1.2), 1.2, aimReached},
		{atLeast(0.6, 1.2), 0.6, leastReached},
		{atLeast(0.6, 1.2), 0.59, missed},
		{limit{}, 1, ""},
	} {
		f := figure{samples: []float64{c.sample}, limit: c.limit}
		if got := f.verdict(); got != c.want {
			t.Errorf("%v under %+v is %q, want %q", c.sample, c.limit, got, c.want)
		}
	}
}

func TestSamplesOfALabelAreOneFigure(t *testing.T) {
	var all figures
	all.add("a", "s", 1)
	all.add("b", "", 5).must(atMost(6, 4)).bar("key")
	all.add("a", "s", 3)
	if len(all) != 2 || all[0].value() != "2.000 s" || all[1].key != "key" {
		t.Errorf("the figures are %+v, %+v", all[0], all[1])
	}
}

func TestTheReportHasEveryFigureAndTheChartIsXML(t *testing.T) {
	s := &section{scenario: scenario{title: "a title", about: "About <it> & more."}, commands: []string{"server: dnbd serve"}, load: "0.50"}
	s.add("dnbd, 8 at once: port ÷ image", "", 1.06).must(atMost(1.07, 1.05)).bar("share dnbd 8")
	s.add("without a limit", "MB/s", 700)
	r := report{set: sets[0], sections: []*section{s}, took: 90 * time.Second}
	page := string(r.markdown())
	for _, want := range []string{
		"| dnbd, 8 at once: port ÷ image | 1.060 | ≤ 1.07 | ≤ 1.05 | reached |",
		"| without a limit | 700 MB/s |", "## A title", "    server: dnbd serve", "took 2 minutes",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q:\n%s", want, page)
		}
	}
	chart := r.chart()
	for d := xml.NewDecoder(bytes.NewReader(chart)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the chart: %v:\n%s", err, chart)
		}
	}
	if !bytes.Contains(chart, []byte("dnbd, 8 at once")) || bytes.Contains(chart, []byte("udpcast")) {
		t.Errorf("the chart has not what was measured alone:\n%s", chart)
	}
}

func TestASetHasItsOwnPageAndScenarios(t *testing.T) {
	group, err := findSet("group")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := group.choose("loss,single"); err != nil || len(got) != 2 || got[0].name != "loss" || got[1].name != "single" {
		t.Errorf("choose(loss,single) = %v, %v", got, err)
	}
	for _, list := range []string{"loss,none", "stream"} {
		if _, err := group.choose(list); err == nil || !strings.Contains(err.Error(), "the set group has sharing") {
			t.Errorf("choose(%s) = %v", list, err)
		}
	}
	if _, err := findSet("other"); err == nil || !strings.Contains(err.Error(), "group, nbd") {
		t.Errorf("findSet(other) = %v", err)
	}
	nbd, err := findSet("nbd")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := report{set: nbd}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "benchmarks-nbd.md"))
	if err != nil || !strings.HasPrefix(string(page), "# NBD servers side by side\n") || !strings.Contains(string(page), "`make bench-nbd`") {
		t.Errorf("the page of the set nbd is %v:\n%s", err, page)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 || strings.Contains(string(page), "svg") {
		t.Errorf("the set nbd has no chart, and %d files", len(files))
	}
}

func TestAProcessIsMeasuredWhileItRunsAndStopped(t *testing.T) {
	p, err := start("shell", exec.CommandContext(t.Context(), "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo ready; read x"))
	if err != nil {
		t.Fatal(err)
	}
	err = poll(t.Context(), "the shell", func() (bool, error) { return p.out.String() == "ready", nil })
	if err != nil {
		t.Fatal(err)
	}
	if cpu, err := p.cpuSoFar(); err != nil || cpu <= 0 {
		t.Errorf("its processor time is %v, %v", cpu, err)
	}
	if m, err := p.peakMemory(); err != nil || m <= 0 || m > 100 {
		t.Errorf("its memory is %v MiB, %v", m, err)
	}
	p.stop()
	if err := p.wait(); err == nil {
		t.Error("it ended by itself")
	}
	if p.cpu() <= 0 {
		t.Error("it took no processor time")
	}
}

func TestOnlyTheLastOfTheOutputIsKept(t *testing.T) {
	var out tail
	for range 100 {
		out.Write(bytes.Repeat([]byte("x"), 100))
	}
	out.Write([]byte("end\n"))
	if s := out.String(); len(s) >= tailSize || !strings.HasSuffix(s, "xend") {
		t.Errorf("%d bytes are kept, ending in %q", len(s), s[len(s)-10:])
	}
}
