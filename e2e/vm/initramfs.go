//go:build linux

package vm

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dnbd/dnbd/e2e/vm/agent"
)

// devices are the modules of what QEMU gives the guest.
var devices = []string{"virtio_pci", "virtio_console", "virtio_net", "virtio_blk"}

// initramfs writes the file system that the guest boots from: our init, busybox with modprobe, dnbd, the modules, and what o adds.
func (r *Rack) initramfs(file string, m *modules, o Options) error {
	load, err := m.order(append(slices.Clone(devices), o.Modules...))
	if err != nil {
		return err
	}
	have, err := m.order(slices.Concat(devices, o.Modules, o.Loadable))
	if err != nil {
		return err
	}
	busybox, err := findBusybox()
	if err != nil {
		return err
	}
	w, err := os.Create(file)
	if err != nil {
		return err
	}
	defer w.Close()
	a := newArchive(w)
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "mnt", "root", "sbin", "usr/bin", "usr/sbin", "var"} {
		a.dir(dir)
	}
	a.link("/lib64", "lib")
	a.file("/init", filepath.Join(r.dir, "init"))
	a.file("/bin/dnbd", filepath.Join(r.dir, "dnbd"))
	for _, name := range []string{"dnbd-server", "dnbd-client", "nbd-server"} {
		a.link("/bin/"+name, "dnbd")
	}
	for name, source := range o.Files {
		a.file(name, source)
	}
	for _, name := range o.Programs {
		a.fail(a.program(name))
	}
	a.file("/bin/busybox", busybox)
	in := path.Join("/lib/modules", m.release)
	for _, f := range have {
		a.file(path.Join(in, f), filepath.Join(m.dir, f))
	}
	for _, f := range []string{"modules.dep", "modules.alias", "modules.softdep", "modules.builtin"} {
		a.file(path.Join(in, f), filepath.Join(m.dir, f))
	}
	var list strings.Builder
	for _, f := range load {
		list.WriteString(path.Join(in, f) + "\n")
	}
	a.bytes(agent.Modules, []byte(list.String()))
	if err := a.close(); err != nil {
		return err
	}
	return w.Close()
}
