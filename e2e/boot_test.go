//go:build linux

package e2e

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/pin/tftp/v3"
	"golang.org/x/sys/unix"

	"github.com/dnbd/dnbd/e2e/lab"
)

// TestMachinesBootBesideADHCPServer does what the firmware of a machine without a disk does, and then iPXE: an address comes from
// the DHCP server that there is, and what to boot from the proxy.
func TestMachinesBootBesideADHCPServer(t *testing.T) {
	need(t, "dnsmasq")
	for _, c := range []struct{ rule, proxy string }{
		{"on another machine", "s2"},
		{"on the same machine", "s1"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, lab.Options{Servers: 2, Clients: 1})
			files := map[string][]byte{"kernel": bytes.Repeat([]byte("kernel"), 1<<19), "initrd": []byte("initrd"), "undionly.kpxe": []byte("bios")}
			for name, content := range files {
				if err := os.WriteFile(r.path(name), content, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			dnsmasq := r.start("s1", "dnsmasq", "--keep-in-foreground", "--port=0", "--interface=eth0", "--bind-interfaces",
				"--dhcp-range=10.77.99.1,10.77.99.9,255.255.0.0", "--no-ping", "--leasefile-ro", "--user=root", "--pid-file=",
				"--conf-file=/dev/null", "--log-facility=-")
			dnsmasq.await(dnsmasq.err, "DHCP, IP range")
			proxy := r.dnbd(c.proxy, "boot", "serve", "--kernel", r.path("kernel"), "--initrd", r.path("initrd"), "--ipxe", r.dir,
				"--image", "dnbd://239.0.0.7/debian")
			proxy.daemon = true
			proxy.await(proxy.err, "offering")
			m := r.firmware("c1")
			dhcp, boot := r.lab.Addr("s1"), r.lab.Addr(c.proxy)

			// The firmware.
			lease, offer := m.discover(dhcp, boot)
			if lease.BootFileName != "" || offer.BootFileName != "undionly.kpxe" || !offer.YourIPAddr.IsUnspecified() {
				t.Errorf("offered %v\nand by the proxy %v", lease, offer)
			}
			ack := m.request(netip.AddrPortFrom(boot, 4011), boot, dhcpv4.WithClientIP(lease.YourIPAddr))
			if ack.MessageType() != dhcpv4.MessageTypeAck || ack.BootFileName != "undionly.kpxe" || !ack.ServerIPAddr.Equal(boot.AsSlice()) {
				t.Errorf("the proxy says %v", ack)
			}
			if got := m.byTFTP(boot, ack.BootFileName); !bytes.Equal(got, files["undionly.kpxe"]) {
				t.Errorf("the boot loader is %q", got)
			}
			// iPXE.
			_, offer = m.discover(dhcp, boot, dhcpv4.WithGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE")))
			if want := "http://" + boot.String() + ":8080/boot.ipxe"; offer.BootFileName != want {
				t.Fatalf("iPXE is told to boot %s, want %s", offer.BootFileName, want)
			}
			if script := m.byHTTP(offer.BootFileName); !bytes.Contains(script, []byte("kernel vmlinuz initrd=initrd.img dnbd=239.0.0.7:debian ")) {
				t.Errorf("the script is %s", script)
			}
			for name, content := range map[string][]byte{"vmlinuz": files["kernel"], "initrd.img": files["initrd"]} {
				if got := m.byHTTP("http://" + boot.String() + ":8080/" + name); !bytes.Equal(got, content) {
					t.Errorf("%s has %d bytes, want %d", name, len(got), len(content))
				}
			}
			// A second one would take the first one's requests.
			second := r.dnbd(c.proxy, "boot", "serve", "--kernel", r.path("kernel"), "--ipxe", r.dir, "--http", ":8081")
			if said := second.fail(1); !bytes.Contains([]byte(said), []byte("another program serves there")) {
				t.Errorf("a second one says: %s", said)
			}
			proxy.stop()
		})
	}
}

// firmware is that of a machine that boots on a host.
type firmware struct {
	t    *testing.T
	rig  *rig
	host string
	conn net.PacketConn // where firmware has DHCP
}

// firmware makes a host one that boots. Its address stays what it is.
func (r *rig) firmware(host string) *firmware {
	r.t.Helper()
	m := &firmware{t: r.t, rig: r, host: host}
	l := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		ctlErr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "eth0") })
		if err == nil {
			err = ctlErr
		}
		return err
	}}
	err := r.lab.Do(host, func() (err error) {
		m.conn, err = l.ListenPacket(context.Background(), "udp4", ":68")
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { m.conn.Close() })
	return m
}

// packet is a request of a PC with BIOS.
func (m *firmware) packet(more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m.t.Helper()
	p, err := dhcpv4.NewDiscovery(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, append([]dhcpv4.Modifier{
		dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
		dhcpv4.WithOption(dhcpv4.OptClientArch(iana.INTEL_X86PC)),
	}, more...)...)
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// send sends a packet, again and again until all of the servers have answered it, and returns their answers.
func (m *firmware) send(p *dhcpv4.DHCPv4, to netip.AddrPort, servers ...netip.Addr) []*dhcpv4.DHCPv4 {
	m.t.Helper()
	answers := make([]*dhcpv4.DHCPv4, len(servers))
	deadline := time.Now().Add(patience)
	buf := make([]byte, 2048)
	for slices.Contains(answers, nil) {
		if time.Now().After(deadline) {
			m.t.Fatalf("of %v there are the answers %v to %v", servers, answers, p)
		}
		if _, err := m.conn.WriteTo(p.ToBytes(), net.UDPAddrFromAddrPort(to)); err != nil {
			m.t.Fatal(err)
		}
		m.conn.SetReadDeadline(time.Now().Add(2 * time.Second)) // it is UDP
		for slices.Contains(answers, nil) {
			n, _, err := m.conn.ReadFrom(buf)
			if err != nil {
				break
			}
			a, err := dhcpv4.FromBytes(buf[:n])
			if err != nil {
				m.t.Fatal(err)
			}
			// Two servers of one machine differ by whether they give addresses: the one that does comes first.
			for i, s := range servers {
				gives := i == 0 && len(servers) == 2
				if a.TransactionID == p.TransactionID && a.ServerIdentifier().Equal(s.AsSlice()) && gives != a.YourIPAddr.IsUnspecified() {
					answers[i] = a
				}
			}
		}
	}
	return answers
}

// discover asks all, and returns what the DHCP server and what the proxy offers.
func (m *firmware) discover(dhcp, proxy netip.Addr, more ...dhcpv4.Modifier) (lease, boot *dhcpv4.DHCPv4) {
	m.t.Helper()
	all := netip.MustParseAddrPort("255.255.255.255:67")
	answers := m.send(m.packet(more...), all, dhcp, proxy)
	return answers[0], answers[1]
}

// request asks one server.
func (m *firmware) request(to netip.AddrPort, server netip.Addr, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m.t.Helper()
	more = append(more, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest))
	return m.send(m.packet(more...), to, server)[0]
}

// byTFTP fetches a file.
func (m *firmware) byTFTP(from netip.Addr, name string) (content []byte) {
	m.t.Helper()
	err := m.rig.lab.Do(m.host, func() error {
		c, err := tftp.NewClient(netip.AddrPortFrom(from, 69).String())
		if err != nil {
			return err
		}
		file, err := c.Receive(name, "octet")
		if err != nil {
			return err
		}
		var b bytes.Buffer
		_, err = file.WriteTo(&b)
		content = b.Bytes()
		return err
	})
	if err != nil {
		m.t.Errorf("%s by TFTP: %v", name, err)
	}
	return content
}

// byHTTP fetches a URL.
func (m *firmware) byHTTP(url string) (content []byte) {
	m.t.Helper()
	web := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			err = m.rig.lab.Do(m.host, func() error {
				conn, err = new(net.Dialer).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}}
	answer, err := web.Get(url)
	if err != nil {
		m.t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err = io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		m.t.Errorf("%s: %s, %v", url, answer.Status, err)
	}
	return content
}
