package boot

import (
	"fmt"
	"strings"
)

// maxCommandLine is the longest command line that Linux takes on x86 and arm64, in bytes (COMMAND_LINE_SIZE, less its end).
const maxCommandLine = 2047

// CheckCommandLine says why a kernel's command line cannot be passed on by both iPXE and GRUB as it is.
func CheckCommandLine(s string) error {
	if len(s) > maxCommandLine {
		return fmt.Errorf("the kernel's command line has %d bytes; Linux takes %d", len(s), maxCommandLine)
	}
	for _, c := range []byte(s) {
		switch {
		case c < ' ' || c > '~':
			return fmt.Errorf("the kernel's command line has the byte %#02x: only printable ASCII gets through", c)
		case strings.IndexByte(`"'\`, c) >= 0:
			return fmt.Errorf("the kernel's command line has a %c: iPXE passes it on, and GRUB takes it as its own", c)
		}
	}
	if strings.Contains(s, "${") {
		return fmt.Errorf("the kernel's command line has a ${, which iPXE would replace")
	}
	for word := range strings.FieldsSeq(s) {
		if word == "||" || word == "&&" || word == ";" || word[0] == '#' {
			return fmt.Errorf("the kernel's command line has the word %s, at which iPXE ends a command", word)
		}
	}
	return nil
}

// IPXEScript is the script by which iPXE boots. The command line has passed CheckCommandLine. Names in it are relative to where
// iPXE has it from.
func IPXEScript(commandLine string, initrd bool) string {
	var b strings.Builder
	b.WriteString("#!ipxe\n")
	words := strings.Fields(commandLine)
	if initrd {
		// A kernel that was started by UEFI finds its initramfs by this name.
		words = append([]string{"initrd=" + InitrdName}, words...)
	}
	fmt.Fprintf(&b, "kernel %s || goto failed\n", strings.Join(append([]string{KernelName}, words...), " "))
	if initrd {
		fmt.Fprintf(&b, "initrd --name %[1]s %[1]s || goto failed\n", InitrdName)
	}
	b.WriteString(`boot || goto failed

:failed
echo This machine could not be booted; the lines above say why. It tries again in 10 seconds.
sleep 10
reboot
`)
	return b.String()
}

// GRUBConfig is the configuration by which GRUB boots. The command line has passed CheckCommandLine. GRUB looks for the names on
// the server that it has it from.
func GRUBConfig(commandLine string, initrd bool) string {
	var b strings.Builder
	b.WriteString("set timeout=0\nmenuentry 'dnbd' {\n\tlinux /" + KernelName)
	for word := range strings.FieldsSeq(commandLine) {
		fmt.Fprintf(&b, " '%s'", word)
	}
	b.WriteString("\n")
	if initrd {
		fmt.Fprintf(&b, "\tinitrd /%s\n", InitrdName)
	}
	b.WriteString("}\n")
	return b.String()
}
