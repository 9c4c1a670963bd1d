package nbdconf_test

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/dnbd/dnbd/internal/nbdconf"
)

func ExampleExport_Section() {
	command, err := nbdconf.ParseArgs([]string{"2000", "/export/nbd/exp-bl-dev", "10M", "-r", "-o", "data"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	section, err := command.Export.Section(command.Section)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Print(section)
	// Output:
	// [data]
	// 	authfile = /etc/nbd-server/allow
	// 	exportname = /export/nbd/exp-bl-dev
	// 	filesize = 10485760
	// 	readonly = true
}

func ExampleExpandName() {
	style := nbdconf.VirtStyle{Kind: nbdconf.CIDRHash, Bits: 16}
	fmt.Println(nbdconf.ExpandName("/export/%s", style, netip.MustParseAddr("192.168.1.100")))
	// Output: /export/192.168.0.0/192.168.1.100 <nil>
}
