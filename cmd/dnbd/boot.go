package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/boot"
	"github.com/dnbd/dnbd/internal/target"
)

// bootCommand is `dnbd boot`.
func bootCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "boot", Short: "Boot machines that have no disk"}
	cmd.AddCommand(bootServeCommand())
	return cmd
}

// bootOptions are what `dnbd boot serve` is told.
type bootOptions struct {
	iface          string
	kernel, initrd string
	image          string
	words          string // for the kernel's command line
	loaders        string
	http, tftp     string
	noDHCP         bool
	print          bool
}

// bootServeCommand is `dnbd boot serve`.
func bootServeCommand() *cobra.Command {
	var o bootOptions
	cmd := &cobra.Command{
		Use:   "serve [flags] --kernel FILE",
		Short: "Offer machines a kernel to boot, over the network",
		Long: "Offer boot loaders, a kernel and its initramfs over TFTP and HTTP, with the configuration for iPXE and GRUB, and\n" +
			"tell machines so by proxy-DHCP, until the process is told to stop. The DHCP server that the network has stays as it\n" +
			"is and goes on giving addresses; this one gives none, and answers only machines that boot by PXE. It listens at the\n" +
			"UDP ports 67, 4011 and 69, which needs root or CAP_NET_BIND_SERVICE.\n\n" +
			"Machines whose firmware is not iPXE are sent a boot loader out of --ipxe: undionly.kpxe for BIOS, ipxe.efi,\n" +
			"snponly.efi, shimx64.efi or grubx64.efi for UEFI on x86-64, and ipxe-arm64.efi, snponly-arm64.efi, shimaa64.efi or\n" +
			"grubaa64.efi on arm64: the first of them that is there.",
		Example: "  dnbd boot serve --kernel /vmlinuz --initrd /initrd.img --image dnbd://239.0.0.7/debian-12\n" +
			"  dnbd boot serve --iface eth1 --kernel /vmlinuz --initrd /initrd.img --append 'dnbd=239.0.0.7:debian-12:cow=mem quiet'\n" +
			"  dnbd boot serve --no-dhcp --http :8080 --kernel /vmlinuz --initrd /initrd.img --image debian-12\n" +
			"  dnbd boot serve --kernel /vmlinuz --image debian-12 --print",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&o.iface, "iface", "", "serve on the network interface called `NAME` (default: the only one that has an IPv4 address)")
	f.StringVar(&o.kernel, "kernel", "", "boot the Linux kernel in `FILE`; it is read when it is asked for")
	f.StringVar(&o.initrd, "initrd", "", "with the initramfs in `FILE`")
	f.StringVar(&o.image, "image", "", "have `IMAGE` as the root, by dnbd= on the kernel's command line: "+target.Forms)
	f.StringVar(&o.words, "append", "", "have these `WORDS` on the kernel's command line, too")
	f.StringVar(&o.loaders, "ipxe", "/usr/lib/ipxe", "find boot loaders in `DIR`, or none when it is empty")
	f.StringVar(&o.http, "http", ":8080", "serve HTTP at `[ADDR]:PORT`")
	f.StringVar(&o.tftp, "tftp", ":69", "serve TFTP at `[ADDR]:PORT`; with proxy-DHCP the port has to be 69")
	f.BoolVar(&o.noDHCP, "no-dhcp", false, "answer no DHCP requests: the DHCP server itself names the file to boot")
	f.BoolVar(&o.print, "print", false, "print the configuration for iPXE and GRUB, and serve nothing")
	return cmd
}

// rootWord is the word of a kernel's command line that makes an image the root: dnbd=GROUP:IMAGE, or dnbd=URI for a group that is
// more than an address.
func rootWord(t target.Target) string {
	uri := t.String()
	group, name, _ := strings.Cut(strings.TrimPrefix(uri, target.Scheme), "/")
	if t.Group.Port() != target.DefaultGroup().Port() || t.Group.Addr().Zone() != "" {
		return "dnbd=" + uri
	}
	return "dnbd=" + group + ":" + name
}

// run serves until the command's context ends.
func (o *bootOptions) run(cmd *cobra.Command) error {
	words := strings.TrimSpace(o.words)
	if o.image != "" {
		t, err := target.Parse(o.image)
		switch {
		case err != nil:
			return usagef("--image: %w", err)
		case t.Name == "" && t.ID == (image.ID{}):
			return usagef("--image %s: it names no image", o.image)
		}
		words = strings.TrimSpace(rootWord(t) + " " + words)
	}
	if err := boot.CheckCommandLine(words); err != nil {
		return usagef("--image, --append: %w", err)
	}
	if o.print {
		initrd := o.initrd != ""
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "# %s\n%s\n# %s\n%s", boot.IPXEName, boot.IPXEScript(words, initrd),
			boot.GRUBName, boot.GRUBConfig(words, initrd))
		return err
	}
	if o.kernel == "" {
		return usagef("name the kernel to boot with --kernel")
	}
	log := newLog(cmd, slog.LevelInfo)
	cfg := boot.Config{
		Kernel: o.kernel, Initrd: o.initrd, CommandLine: words, Loaders: o.loaders, HTTP: o.http, TFTP: o.tftp,
		DHCP: !o.noDHCP, Log: log,
	}
	if o.iface != "" || cfg.DHCP {
		var err error
		if cfg.Interface, err = boot.FindInterface(o.iface); err != nil {
			return fmt.Errorf("--iface: %w", err)
		}
	}
	s, err := boot.Listen(cmd.Context(), cfg)
	if err != nil {
		return err
	}
	log.Info("offering", "files", s.Names(), "http", s.HTTP(), "tftp", s.TFTP(), "script", s.ScriptURL(),
		"proxy-dhcp", cfg.DHCP, "command line", words)
	notify(log, daemon.SdNotifyReady)
	return s.Run(cmd.Context())
}
