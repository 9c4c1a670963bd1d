//go:build linux

// Command record boots the Debian of scripts/build-userland.sh in a virtual machine whose root is an NBD export, and writes what the
// guest's kernel reads until the login is there: internal/sim replays it. It prints the trace on standard output.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

func main() {
	kernel := flag.String("kernel", string(vm.Backports), "suite of Debian that the kernel is of")
	debian := flag.String("userland", "", "image that scripts/build-userland.sh has made (default: where it makes it)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := record(ctx, vm.Kernel(*kernel), *debian, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

const (
	// diskSize is that of the disk in MiB, and its file system's.
	diskSize = 600
	// readAhead is the kernel's, in KiB: little, so that the trace has what the machine reads rather than what its kernel thinks it may.
	readAhead = 4
)

func record(ctx context.Context, kernel vm.Kernel, debian string, out io.Writer) (err error) {
	for _, why := range []string{vm.Missing(), lab.Missing()} {
		if why != "" {
			return errors.New("a virtual machine " + why)
		}
	}
	if debian == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		debian = filepath.Join(cache, "dnbd", "userland", "bookworm.erofs")
	}
	dir, err := os.MkdirTemp("", "dnbd-record-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disk := filepath.Join(dir, "disk")
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-euc", `mount -o loop,ro -t erofs "$debian" /mnt; mkfs.ext4 -q -d /mnt "$disk" ${size}M`)
	cmd.Env = append(os.Environ(), "debian="+debian, "disk="+disk, "size="+strconv.Itoa(diskSize))
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make a disk: %w: %s", err, said)
	}
	rack, err := vm.NewRack(dir)
	if err != nil {
		return err
	}
	l, err := lab.New(lab.Options{VMs: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()

	server := l.Command(ctx, "s1", rack.Dnbd(), "serve", "--verbose", "--group", "none", "--nbd", ":10809", "--log", disk)
	server.Env = append(os.Environ(), "DNBD_RUNDIR="+filepath.Join(dir, "run"))
	log, err := server.StderrPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	var reads tape
	var copying sync.WaitGroup
	copying.Go(func() { reads.copy(log) })
	defer func() {
		server.Process.Signal(syscall.SIGTERM)
		copying.Wait()
		err = errors.Join(err, server.Wait())
		if err == nil {
			about := fmt.Sprintf("Debian 12 to a root shell: a disk of %d MiB with ext4, over NBD to Linux of %s in QEMU (TCG), read-ahead %d KiB", diskSize, kernel, readAhead)
			err = reads.write(out, about)
		}
	}()

	guest, err := rack.Start(ctx, kernel, vm.Options{Lab: l, Host: "v1", Modules: []string{"nbd", "overlay", "ext4"}, Memory: 768})
	if guest != nil {
		defer func() { err = errors.Join(err, guest.Kill()) }()
	}
	if err != nil {
		return err
	}
	return boot(ctx, guest, l)
}

// boot makes the export the guest's root, under a layer in memory, and starts its init there.
func boot(ctx context.Context, g *vm.Guest, l *lab.Lab) error {
	device, err := g.Run(ctx, "dnbd", "attach", "--driver", "nbd", fmt.Sprintf("nbd://%v/disk", l.Addr("s1")))
	if err != nil {
		return err
	}
	if _, err := g.Run(ctx, "sh", "-ec", `
		blockdev --setra $2 $1
		mkdir /ro /rw /new
		mount -t ext4 -o ro,noload $1 /ro
		mount -t tmpfs rw /rw
		mkdir /rw/upper /rw/work
		mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work overlay /new`, "sh", strings.TrimSpace(device), strconv.Itoa(2*readAhead)); err != nil {
		return err
	}
	if err := g.SwitchRoot(ctx, "/new", "/sbin/init"); err != nil {
		return err
	}
	if err := g.AwaitConsole(ctx, "diskless login:"); err != nil {
		return err
	}
	if err := g.Type("root\n"); err != nil {
		return err
	}
	return g.AwaitConsole(ctx, "root@diskless:~#")
}

// tape is the reads of a boot.
type tape struct {
	reads []read
}

type read struct {
	begin, end     time.Time
	offset, length int64
}

var logged = regexp.MustCompile(`msg=read .*offset=(\d+) length=(\d+) took=(\S+)`)

// copy takes in a server's log, until its end.
func (t *tape) copy(log io.Reader) {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		now := time.Now()
		m := logged.FindStringSubmatch(lines.Text())
		if m == nil {
			fmt.Fprintln(os.Stderr, lines.Text())
			continue
		}
		offset, _ := strconv.ParseInt(m[1], 10, 64) // digits: all that fails is a number that no disk has
		length, _ := strconv.ParseInt(m[2], 10, 64)
		took, err := time.ParseDuration(m[3])
		if err != nil {
			fmt.Fprintln(os.Stderr, lines.Text(), err)
			continue
		}
		t.reads = append(t.reads, read{now.Add(-took), now, offset, length})
	}
}

// write writes the reads in the form that package sim reads, in the order in which they began. A read is told by the one that had ended
// last when it began: what the guest did between them takes its time again when the trace is replayed, and reads that went on at the same
// time do so again.
func (t *tape) write(out io.Writer, about string) error {
	slices.SortStableFunc(t.reads, func(a, b read) int { return a.begin.Compare(b.begin) })
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "# %s\n# reads back, microseconds after its end, offset, length\n", about)
	for i, r := range t.reads {
		last := -1
		for j, q := range t.reads[:i] {
			if !q.end.After(r.begin) && (last < 0 || q.end.After(t.reads[last].end)) {
				last = j
			}
		}
		if last < 0 {
			fmt.Fprintln(w, 0, 0, r.offset, r.length)
			continue
		}
		fmt.Fprintln(w, i-last, r.begin.Sub(t.reads[last].end).Microseconds(), r.offset, r.length)
	}
	return w.Flush()
}
