//go:build linux

package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/dnbd/dnbd/e2e/lab"
	"github.com/dnbd/dnbd/e2e/vm/agent"
)

// Options are what a guest has.
type Options struct {
	// Modules are loaded at start, in this order, each after those that it needs. Loadable ones are there for modprobe. What the
	// kernel has built in is not looked for.
	Modules, Loadable []string
	// Files are paths in the guest, and the files of the host that they are copies of.
	Files map[string]string
	// Programs of the host are in the guest's /bin, with the libraries that they are linked to.
	Programs []string
	// Initramfs is a file of the host that is booted in place of ours. There is no agent then, and none of what is above: the guest is
	// seen and typed to on its console, and sets up its network itself.
	Initramfs string
	// Netboot has the guest boot from the network by PXE, as a machine does whose firmware has iPXE, in place of what the host gives it:
	// there is no agent either, and Append and the kernel are left out of account.
	Netboot bool
	// UEFI has a guest that boots from the network have UEFI as its firmware, and no iPXE.
	UEFI bool
	// SecureBoot has UEFI start only what is signed for the keys that machines are sold with.
	SecureBoot bool
	// Lab is the network, and Host the guest's name there: one of Lab.VMs. Without a lab the guest has no network.
	Lab  *lab.Lab
	Host string
	// Disks are files of the host that are /dev/vda and so on.
	Disks []Disk
	// Memory is in MiB; 0 is 256.
	Memory int
	// CPUs is the number of processors; 0 is one.
	CPUs int
	// Append is added to the kernel's command line.
	Append string
	// Keys and Screen are a terminal for the console, where a shell is started. Without Keys there is none, and the guest is typed to
	// by Type.
	Keys   *os.File
	Screen io.Writer
}

// bare says that the guest has no agent.
func (o Options) bare() bool { return o.Initramfs != "" || o.Netboot }

// Disk is a file of the host that is a disk of the guest.
type Disk struct {
	Path     string
	ReadOnly bool
}

// UEFI for guests (Debian: ovmf), and one with Secure Boot and the variables that have Microsoft's keys.
const (
	ovmf           = "/usr/share/ovmf/OVMF.fd"
	ovmfSecure     = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	ovmfSecureVars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
)

// defaultMemory is enough for dnbd with a cache of 64 MiB.
const defaultMemory = 256

// emulate returns QEMU's command for a guest whose files are in dir. Where there is a lab, it runs in its switch, where the guest's
// port is.
func emulate(ctx context.Context, kernel, dir string, o Options) *exec.Cmd {
	// A guest that goes wrong is to end and not to go on. On a busy host the emulated clocks run unevenly, which is no reason to do
	// without the best of them; and systemd would give up on what takes longer than 90 s, the console included.
	command := "console=ttyS0 loglevel=5 panic=-1 oops=panic tsc=reliable no_timer_check systemd.default_timeout_start_sec=600 " + o.Append
	if o.Keys != nil {
		command += " " + agent.Shell
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-vga", "none", "-display", "none", "-no-reboot",
		// In software, for machines without KVM. Without -cx16 guests with Linux 6.12 corrupt their memory when the host is busy.
		"-accel", "tcg", "-cpu", "qemu64,-cx16",
		"-m", fmt.Sprint(orElse(o.Memory, defaultMemory)), "-smp", fmt.Sprint(orElse(o.CPUs, 1)),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
	}
	switch {
	case o.Netboot:
		args = append(args, "-boot", "n")
		switch {
		case o.SecureBoot:
			// Nobody but the firmware may write to the variables, and what it writes is gone with the guest.
			args = append(args, "-machine", "q35,smm=on", "-global", "ICH9-LPC.disable_s3=1",
				"-global", "driver=cfi.pflash01,property=secure,value=on",
				"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+ovmfSecure,
				"-drive", "if=pflash,unit=1,format=raw,snapshot=on,file="+ovmfSecureVars)
		case o.UEFI:
			args = append(args, "-bios", ovmf)
		}
	case o.Initramfs != "":
		args = append(args, "-kernel", kernel, "-append", command, "-initrd", o.Initramfs)
	default:
		args = append(args, "-kernel", kernel, "-append", command, "-initrd", filepath.Join(dir, "initramfs"), "-device", "virtio-serial-pci",
			"-chardev", "socket,id=agent,path="+filepath.Join(dir, "agent"), "-device", "virtserialport,chardev=agent,name="+agent.Port)
	}
	for i, d := range o.Disks {
		drive := fmt.Sprintf("if=none,format=raw,id=disk%d,file=%s", i, d.Path)
		if d.ReadOnly {
			drive += ",readonly=on"
		}
		args = append(args, "-drive", drive, "-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", i))
	}
	if o.Lab == nil {
		return exec.CommandContext(ctx, emulator, append(args, "-nic", "none")...)
	}
	card := "virtio-net-pci,netdev=net,mac=" + o.Lab.MAC(o.Host).String()
	if !o.Netboot || o.UEFI {
		card += ",romfile=" // with iPXE, by which a BIOS would try to boot from the network
	}
	args = append(args, "-netdev", "tap,id=net,script=no,downscript=no,ifname="+o.Host, "-device", card)
	return o.Lab.Command(ctx, lab.Switch, emulator, args...)
}

func orElse(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
