package boot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/iana"
)

// The names under which things are offered.
const (
	KernelName = "vmlinuz"
	InitrdName = "initrd.img"
	IPXEName   = "boot.ipxe"
	GRUBName   = "grub.cfg"
)

// grubPlaces are where GRUB looks for its configuration, which depends on who built it: Debian, Ubuntu, Fedora.
var grubPlaces = []string{GRUBName, "grub/" + GRUBName, "EFI/debian/" + GRUBName, "EFI/fedora/" + GRUBName}

// loaders are the boot loaders for each kind of firmware, by the numbers that DHCP's option 93 has (RFC 4578, section 2.1, with
// the errata that call both 7 and 9 x86-64). The first that there is is sent; the others are there to be asked for, as shim
// asks for GRUB.
var loaders = map[iana.Arch][]string{
	iana.INTEL_X86PC: {"undionly.kpxe", "ipxe.pxe"},
	iana.EFI_X86_64:  x86Loaders,
	iana.EFI_BC:      x86Loaders,
	iana.EFI_ARM64: {
		"ipxe-arm64.efi", "arm64-efi/ipxe.efi", "snponly-arm64.efi", "arm64-efi/snponly.efi", "shimaa64.efi", "grubaa64.efi",
	},
}

var x86Loaders = []string{"ipxe.efi", "snponly.efi", "shimx64.efi", "grubx64.efi"}

// LoaderNames returns the names of the boot loaders that are looked for, sorted.
func LoaderNames() []string {
	all := slices.Concat(slices.Collect(maps.Values(loaders))...)
	slices.Sort(all)
	return slices.Compact(all)
}

// files is what is offered, by name.
type files map[string]file

// file is a path, or the bytes themselves.
type file struct {
	path string
	text string
}

// offer makes the list of what is offered.
func offer(cfg Config) (files, error) {
	if err := CheckCommandLine(cfg.CommandLine); err != nil {
		return nil, err
	}
	f := files{KernelName: {path: cfg.Kernel}, IPXEName: {text: IPXEScript(cfg.CommandLine, cfg.Initrd != "")}}
	for _, name := range grubPlaces {
		f[name] = file{text: GRUBConfig(cfg.CommandLine, cfg.Initrd != "")}
	}
	if err := readable(cfg.Kernel); err != nil {
		return nil, fmt.Errorf("kernel: %w", err)
	}
	if cfg.Initrd != "" {
		if err := readable(cfg.Initrd); err != nil {
			return nil, fmt.Errorf("initrd: %w", err)
		}
		f[InitrdName] = file{path: cfg.Initrd}
	}
	if cfg.Loaders == "" {
		return f, nil
	}
	if _, err := os.ReadDir(cfg.Loaders); err != nil {
		return nil, fmt.Errorf("boot loaders: %w; Debian's package ipxe has them in /usr/lib/ipxe, and "+
			"machines with iPXE in their firmware need none", err)
	}
	for _, name := range LoaderNames() {
		path := filepath.Join(cfg.Loaders, name)
		switch err := readable(path); {
		case err == nil:
			f[name] = file{path: path}
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("boot loaders: %w", err)
		}
	}
	if len(f.loaders()) == 0 {
		return nil, fmt.Errorf("boot loaders: %s has none of %s; Debian's package ipxe has them in /usr/lib/ipxe", cfg.Loaders,
			strings.Join(LoaderNames(), ", "))
	}
	return f, nil
}

// loaders returns the boot loader that each kind of firmware is sent.
func (f files) loaders() map[iana.Arch]string {
	m := map[iana.Arch]string{}
	for arch, names := range loaders {
		for _, name := range names {
			if _, ok := f[name]; ok {
				m[arch] = name
				break
			}
		}
	}
	return m
}

func (f files) names() []string { return slices.Sorted(maps.Keys(f)) }

// open opens what is offered under a name that came from the network, with or without a slash before it. A name that is not in
// the list, whatever it looks like, is fs.ErrNotExist. It also returns when the bytes last changed; zero if that is not known.
func (f files) open(name string) (io.ReadSeekCloser, time.Time, error) {
	entry, ok := f[strings.TrimPrefix(name, "/")]
	if !ok {
		return nil, time.Time{}, fmt.Errorf("%q is not offered: %w", name, fs.ErrNotExist)
	}
	if entry.path == "" {
		return text{strings.NewReader(entry.text)}, time.Time{}, nil
	}
	file, err := os.Open(entry.path)
	if err != nil {
		return nil, time.Time{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, time.Time{}, errors.Join(err, file.Close())
	}
	return file, info.ModTime(), nil
}

// text is bytes that need not be closed.
type text struct{ *strings.Reader }

func (text) Close() error { return nil }
