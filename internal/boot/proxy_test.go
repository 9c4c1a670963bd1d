package boot

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var (
	self    = netip.MustParseAddr("10.77.1.1")
	other   = net.IPv4(10, 77, 1, 9)
	machine = net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}
	uuid    = append([]byte{0}, bytes.Repeat([]byte{0xab}, 16)...)
)

func testProxy() *proxy {
	return &proxy{
		addr: self, script: "http://10.77.1.1:8080/boot.ipxe",
		loaders: map[iana.Arch]string{
			iana.INTEL_X86PC: "undionly.kpxe", iana.EFI_X86_64: "ipxe.efi", iana.EFI_BC: "ipxe.efi", iana.EFI_ARM64: "ipxe-arm64.efi",
		},
	}
}

// discover is what the firmware of a machine sends to all; more is done to it.
func discover(arch iana.Arch, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	p, err := dhcpv4.NewDiscovery(machine, append([]dhcpv4.Modifier{
		dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
		dhcpv4.WithOption(dhcpv4.OptClientArch(arch)),
		dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, uuid),
	}, more...)...)
	if err != nil {
		panic(err) // the system has no random numbers
	}
	return p
}

// kind makes a request another one.
func kind(t dhcpv4.MessageType) dhcpv4.Modifier { return dhcpv4.WithMessageType(t) }

// without leaves an option out.
func without(code dhcpv4.OptionCode) dhcpv4.Modifier { return dhcpv4.WithoutOption(code) }

func TestMachinesAreToldWhatToBoot(t *testing.T) {
	ipxe := dhcpv4.WithGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE"))
	toProxy := func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.IPv4(10, 77, 10, 1) }
	const script = "http://10.77.1.1:8080/boot.ipxe"
	for _, c := range []struct {
		rule    string
		port    int
		request *dhcpv4.DHCPv4
		file    string // empty: there is no answer
		vendor  bool   // with vendor options
	}{
		{"BIOS", 67, discover(iana.INTEL_X86PC), "undionly.kpxe", true},
		{"UEFI, as firmware numbers it", 67, discover(iana.EFI_X86_64), "ipxe.efi", false},
		{"UEFI, as RFC 4578 numbered it", 67, discover(iana.EFI_BC), "ipxe.efi", false},
		{"UEFI on arm64", 67, discover(iana.EFI_ARM64), "ipxe-arm64.efi", false},
		{"iPXE gets its script", 67, discover(iana.INTEL_X86PC, ipxe), script, true},
		{"iPXE on UEFI", 67, discover(iana.EFI_X86_64, ipxe), script, false},
		{"iPXE where there is no loader", 67, discover(iana.EFI_RISCV64, ipxe), script, false},
		{"iPXE as RFC 3004 has it", 67, discover(iana.EFI_X86_64, dhcpv4.WithUserClass("iPXE", true)), script, false},
		{"another user class", 67, discover(iana.INTEL_X86PC, dhcpv4.WithUserClass("gPXE", true)), "undionly.kpxe", true},
		{
			"the first that there is of several", 67,
			discover(0, dhcpv4.WithOption(dhcpv4.OptClientArch(iana.EFI_IA32, iana.EFI_X86_64))), "ipxe.efi", false,
		},
		{"a request to the proxy", 4011, discover(iana.EFI_X86_64, kind(dhcpv4.MessageTypeRequest), toProxy), "ipxe.efi", false},
		{"the same as an inform", 4011, discover(iana.EFI_X86_64, kind(dhcpv4.MessageTypeInform), toProxy), "ipxe.efi", false},
		{
			"one that names this proxy", 4011,
			discover(0, kind(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self.AsSlice()))),
			"undionly.kpxe", true,
		},
		{
			"one that names another", 4011,
			discover(0, kind(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(other))), "", false,
		},
		{"the DHCP server's request", 67, discover(0, kind(dhcpv4.MessageTypeRequest)), "", false},
		{"a discover at the wrong port", 4011, discover(0), "", false},
		{"what only servers say", 67, discover(0, kind(dhcpv4.MessageTypeOffer)), "", false},
		{"an answer", 67, discover(0, func(p *dhcpv4.DHCPv4) { p.OpCode = dhcpv4.OpcodeBootReply }), "", false},
		{"no DHCP, but BOOTP", 67, discover(0, without(dhcpv4.OptionDHCPMessageType)), "", false},
		{"a machine that does not boot", 67, discover(0, without(dhcpv4.OptionClassIdentifier)), "", false},
		{"one of another class", 67, discover(0, dhcpv4.WithOption(dhcpv4.OptClassIdentifier("MSFT 5.0"))), "", false},
		{"no architecture", 67, discover(0, without(dhcpv4.OptionClientSystemArchitectureType)), "", false},
		{"half an architecture", 67, discover(0, dhcpv4.WithGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0})), "", false},
		{"one for which there is nothing", 67, discover(iana.EFI_IA32), "", false},
	} {
		got := testProxy().answer(c.request.ToBytes(), c.port)
		if got == nil || c.file == "" {
			if got != nil || c.file != "" {
				t.Errorf("%s: got %v, want %q", c.rule, got, c.file)
			}
			continue
		}
		checkAnswer(t, c.rule, c.request, got)
		want := dhcpv4.MessageTypeOffer
		if c.port == proxyPort {
			want = dhcpv4.MessageTypeAck
		}
		if got.BootFileName != c.file || got.MessageType() != want {
			t.Errorf("%s: %v of %q, want %v of %q", c.rule, got.MessageType(), got.BootFileName, want, c.file)
		}
		if v := got.Options.Get(dhcpv4.OptionVendorSpecificInformation); (v != nil) != c.vendor || c.vendor && !bytes.Equal(v, discoveryControl) {
			t.Errorf("%s: vendor options % x", c.rule, v)
		}
		if got := got.Options.Get(dhcpv4.OptionClientMachineIdentifier); !bytes.Equal(got, uuid) {
			t.Errorf("%s: machine identifier % x", c.rule, got)
		}
	}
}

// checkAnswer looks for what every answer has to be: one to that request, of a proxy that gives no address.
func checkAnswer(t *testing.T, rule string, request, got *dhcpv4.DHCPv4) {
	t.Helper()
	again, err := dhcpv4.FromBytes(got.ToBytes())
	if err != nil {
		t.Fatalf("%s: the answer cannot be read: %v", rule, err)
	}
	switch {
	case again.OpCode != dhcpv4.OpcodeBootReply || again.TransactionID != request.TransactionID ||
		!bytes.Equal(again.ClientHWAddr, request.ClientHWAddr) || again.Flags != request.Flags:
		t.Errorf("%s: it is not the answer to that request: %v", rule, again)
	case !again.YourIPAddr.IsUnspecified() || again.IPAddressLeaseTime(0) != 0 || again.SubnetMask() != nil || again.Router() != nil:
		t.Errorf("%s: it gives an address: %v", rule, again)
	case !again.ServerIPAddr.Equal(self.AsSlice()) || !again.ServerIdentifier().Equal(self.AsSlice()):
		t.Errorf("%s: it is from %v and %v", rule, again.ServerIPAddr, again.ServerIdentifier())
	case again.ClassIdentifier() != pxeClass || again.BootFileName != got.BootFileName:
		t.Errorf("%s: class %q, file %q", rule, again.ClassIdentifier(), again.BootFileName)
	}
}

func TestAnswersGoToWhoAsked(t *testing.T) {
	from := netip.MustParseAddrPort("10.77.10.1:68")
	relayed := discover(0, dhcpv4.WithRelay(net.IPv4(10, 9, 0, 1)), dhcpv4.WithOption(dhcpv4.OptRelayAgentInfo(
		dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(1), []byte("port 3")))))
	for _, c := range []struct {
		rule    string
		port    int
		request *dhcpv4.DHCPv4
		want    string
	}{
		{"without an address, to all", 67, discover(0), "255.255.255.255:68"},
		{"through a relay", 67, relayed, "10.9.0.1:67"},
		{"who asked the proxy", 4011, discover(0, kind(dhcpv4.MessageTypeRequest)), "10.77.10.1:68"},
	} {
		reply := testProxy().answer(c.request.ToBytes(), c.port)
		if reply == nil {
			t.Errorf("%s: there is no answer", c.rule)
			continue
		}
		if got := destination(reply, c.port, from); got.String() != c.want {
			t.Errorf("%s: to %v, want %s", c.rule, got, c.want)
		}
		info := dhcpv4.OptionRelayAgentInformation
		if !bytes.Equal(reply.Options.Get(info), c.request.Options.Get(info)) {
			t.Errorf("%s: the relay does not get back what it added", c.rule)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	for _, port := range []uint16{dhcpPort, proxyPort} {
		f.Add(discover(iana.INTEL_X86PC).ToBytes(), port)
		f.Add(discover(iana.EFI_X86_64, kind(dhcpv4.MessageTypeRequest)).ToBytes(), port)
		f.Add(discover(0, dhcpv4.WithRelay(net.IPv4(10, 9, 0, 1)), dhcpv4.WithGeneric(dhcpv4.OptionUserClassInformation, []byte("iPXE"))).ToBytes(), port)
		f.Add([]byte{}, port)
	}
	p := testProxy()
	files := append([]string{p.script}, "undionly.kpxe", "ipxe.efi", "ipxe-arm64.efi")
	f.Fuzz(func(t *testing.T, packet []byte, port uint16) {
		got := p.answer(packet, int(port))
		if got == nil {
			return
		}
		request, err := dhcpv4.FromBytes(packet)
		if err != nil {
			t.Fatalf("an answer to what is no request: %v", err)
		}
		checkAnswer(t, "fuzzed", request, got)
		if !slices.Contains(files, got.BootFileName) {
			t.Errorf("it is told to boot %q", got.BootFileName)
		}
	})
}
