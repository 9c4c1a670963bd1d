package boot

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// The UDP ports of proxy-DHCP (PXE 2.1, section 2.2): requests that all DHCP servers hear, and those that a machine sends to the
// proxy alone, once it has an address.
const (
	dhcpPort       = 67
	dhcpClientPort = 68
	proxyPort      = 4011
)

// pxeClass is what the class identifier, option 60, of machines that boot by PXE begins with, and that of the answers is.
const pxeClass = "PXEClient"

// ipxeClass is the user class, option 77, by which iPXE is known.
const ipxeClass = "iPXE"

// discoveryControl is the vendor option of PXE, option 43, that says where to look for boot servers (PXE 2.1, table 2-1, tag 6):
// nowhere, as the file is named in this packet (bit 3). 255 ends vendor options.
var discoveryControl = []byte{6, 1, 1 << 3, 255}

// proxy answers requests. It has no state and no sockets.
type proxy struct {
	addr    netip.Addr           // this machine's
	script  string               // the URL of iPXE's script
	loaders map[iana.Arch]string // what TFTP has for each kind of firmware
}

// answer returns the answer to a packet that came in at a port, or nil for what does not concern a proxy: what is no DHCP, comes
// from a server, from a machine that does not boot, or from one that nothing is offered to. The packet comes from the network and
// may be anything.
func (p *proxy) answer(packet []byte, port int) *dhcpv4.DHCPv4 {
	request, err := dhcpv4.FromBytes(packet)
	if err != nil || request.OpCode != dhcpv4.OpcodeBootRequest || !strings.HasPrefix(request.ClassIdentifier(), pxeClass) {
		return nil
	}
	var kind dhcpv4.MessageType
	switch t := request.MessageType(); {
	case port == dhcpPort && t == dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case port == proxyPort && (t == dhcpv4.MessageTypeRequest || t == dhcpv4.MessageTypeInform):
		kind = dhcpv4.MessageTypeAck
	default:
		return nil
	}
	self := p.addr.AsSlice()
	if id := request.ServerIdentifier(); id != nil && !id.Equal(self) {
		return nil // it is another proxy's
	}
	arch, name, ok := p.file(request)
	if !ok {
		return nil
	}
	reply, err := dhcpv4.New(
		dhcpv4.WithReply(request),
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(self),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self)),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(pxeClass)),
		dhcpv4.WithOptionCopied(request, dhcpv4.OptionClientMachineIdentifier),
		dhcpv4.WithOptionCopied(request, dhcpv4.OptionRelayAgentInformation),
	)
	if err != nil {
		return nil // the system has no random numbers
	}
	reply.GatewayIPAddr = request.GatewayIPAddr
	reply.BootFileName = name
	if arch == iana.INTEL_X86PC {
		// Some UEFI firmware does not take answers that have this, and none needs it: it asks at port 4011.
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, discoveryControl))
	}
	return reply
}

// file chooses what a machine is sent: iPXE a script, others the boot loader for their firmware.
func (p *proxy) file(request *dhcpv4.DHCPv4) (arch iana.Arch, name string, ok bool) {
	archs := request.ClientArch()
	if len(archs) == 0 {
		return 0, "", false
	}
	if isIPXE(request) {
		return archs[0], p.script, true
	}
	// A machine lists what it takes, the best first.
	for _, arch := range archs {
		if name, ok := p.loaders[arch]; ok {
			return arch, name, true
		}
	}
	return 0, "", false
}

// isIPXE looks for iPXE's user class, which iPXE writes as it is; RFC 3004 has a length before it.
func isIPXE(request *dhcpv4.DHCPv4) bool {
	class := request.Options.Get(dhcpv4.OptionUserClassInformation)
	return string(class) == ipxeClass || bytes.Equal(class, append([]byte{byte(len(ipxeClass))}, ipxeClass...))
}
