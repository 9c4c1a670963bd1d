//go:build linux

package vm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm"
)

// bootClient boots a guest in which this program is called nbd-client, too.
func bootClient(t *testing.T, k vm.Kernel, l *lab.Lab, files map[string]string) *vm.Guest {
	t.Helper()
	g := rack.Boot(t, k, vm.Options{Lab: l, Host: "v1", Loadable: []string{"nbd"}, CPUs: 2, Files: files})
	run(t, g, "sh", "-c", "ln -s $(command -v dnbd) /bin/nbd-client")
	return g
}

func TestNBDClientIsAsItsUsersKnowIt(t *testing.T) {
	need(t, "nbdkit")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		server := startForeign(t, l, 16<<20, nil, nil)
		g := bootClient(t, k, l, nil)
		if _, err := g.Run(within(t), "nbd-client", "-c", "/dev/nbd3"); err == nil || !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("-c before there is a device: %v", err)
		}
		if got := run(t, g, "nbd-client", "-l", server.addr); got != "\n" { // nbdkit's export has the empty name
			t.Errorf("-l printed %q", got)
		}
		got := run(t, g, "nbd-client", server.addr, "10809", "/dev/nbd3", "-b", "4096", "-C", "3", "-t", "7", "-persist", "-systemd-mark", "-swap",
			"-readonly", "-name", "")
		if got != "Connected /dev/nbd3\n" {
			t.Errorf("it printed %q", got)
		}
		s := attachment(t, g)
		if kernel := s.Attachment.Kernel; len(kernel.Connections) != 3 || kernel.Timeout != 7 || kernel.Device != "/dev/nbd3" {
			t.Errorf("the device is %+v", kernel)
		}
		for file, want := range map[string]string{
			"/sys/block/nbd3/queue/logical_block_size": "4096", "/sys/block/nbd3/ro": "1", "/sys/block/nbd3/size": "32768",
		} {
			if got := strings.TrimSpace(run(t, g, "cat", file)); got != want {
				t.Errorf("%s is %s, want %s", file, got, want)
			}
		}
		pid := strings.TrimSpace(run(t, g, "nbd-client", "-check", "/dev/nbd3"))
		if mark := run(t, g, "head", "-c", "5", "/proc/"+pid+"/cmdline"); mark != "@dnbd" {
			t.Errorf("the process is called %q, want @dnbd: systemd leaves that alone", mark)
		}
		if locked := run(t, g, "sh", "-c", "grep VmLck /proc/"+pid+"/status; cat /proc/"+pid+"/oom_score_adj"); strings.Contains(locked, " 0 kB") ||
			!strings.Contains(locked, "-1000") {
			t.Errorf("a process for swap has %s", locked)
		}
		run(t, g, "dnbd", "set", "/dev/nbd3", "--timeout", "9s", "--io-timeout", "1h")
		if kernel := attachment(t, g).Attachment.Kernel; kernel.Timeout != 9 || kernel.DeadTimeout != 3600 {
			t.Errorf("after set the limits are %v and %v", kernel.Timeout, kernel.DeadTimeout)
		}
		run(t, g, "nbd-client", "-d", "/dev/nbd3")
		if got := run(t, g, "cat", "/sys/block/nbd3/size"); got != "0\n" {
			t.Errorf("after -d the size is %s", got)
		}

		// Without -persist, what is asked of a device whose server is gone fails.
		run(t, g, "nbd-client", "-t", "10", server.addr, "/dev/nbd0")
		server.kill()
		if _, err := g.Run(within(t), "dd", "if=/dev/nbd0", "of=/dev/null", "iflag=direct", "bs=4k", "count=1"); err == nil {
			t.Error("a read from a server that is gone succeeded")
		}
		server.start()
		await(t, "the device is connected again", func() bool { return attachment(t, g).Attachment.Kernel.Connections[0].Alive })
		run(t, g, "dd", "if=/dev/nbd0", "of=/dev/null", "iflag=direct", "bs=4k", "count=1")
		run(t, g, "nbd-client", "-d", "/dev/nbd0")
	})
}

// certificates makes a CA, and a certificate of its for an address; it returns the folder, laid out as nbdkit has it.
func certificates(t *testing.T, addr string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte, err error) {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var parent *x509.Certificate
	var parentKey *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i) + 1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-24 * time.Hour),
			NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, IsCA: i == 0, IPAddresses: []net.IP{net.ParseIP(addr)},
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		}
		if parent == nil {
			parent, parentKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
		write(name+"-cert.pem", "CERTIFICATE", der, err)
		der, err = x509.MarshalPKCS8PrivateKey(key)
		write(name+"-key.pem", "PRIVATE KEY", der, err)
	}
	return dir
}

func TestTLSGoesThroughTheProcess(t *testing.T) {
	need(t, "nbdkit")
	t.Parallel()
	onEachKernel(t, func(t *testing.T, k vm.Kernel) {
		vm.Need(t)
		l := lab.ForTest(t, lab.Options{VMs: 1})
		certs := certificates(t, l.Addr("s1").String())
		server := startForeign(t, l, 16<<20, []string{"--tls=require", "--tls-certificates=" + certs}, nil)
		files := rack.Load()
		files["/ca.pem"] = filepath.Join(certs, "ca-cert.pem")
		g := bootClient(t, k, l, files)
		if _, err := g.Run(within(t), "nbd-client", server.addr, "/dev/nbd0"); err == nil || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("connected without TLS: %v", err)
		}
		run(t, g, "nbd-client", "-cacertfile", "/ca.pem", "-persist", "-t", "60", server.addr, "/dev/nbd0")
		// Without flushes: one would fail, since the process knows that writes that were not flushed may be lost.
		p, err := g.Start(within(t), "/load", "-time", "10s", "-flush=false", "/dev/nbd0")
		if err != nil {
			t.Fatal(err)
		}
		await(t, "there is load", func() bool { return attachment(t, g).Attachment.Kernel.Requests > 50 })
		server.kill()
		server.start()
		fine(t, g, p)
		if kernel := attachment(t, g).Attachment.Kernel; kernel.Lost != 0 || kernel.Connections[0].Peer != "this process" {
			t.Errorf("the device is %+v", kernel)
		}
		run(t, g, "nbd-client", "-d", "/dev/nbd0")
	})
}
