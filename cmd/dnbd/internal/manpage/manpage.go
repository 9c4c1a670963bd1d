// Package manpage writes the man pages of a command and of those below it, in the man(7) macros, from what they tell their
// own --help.
package manpage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Write writes a page for cmd and each command below it that is not hidden to dir, which it makes if it is missing. The
// page of `dnbd image create` is dnbd-image-create.1.
func Write(dir string, cmd *cobra.Command, version string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	cmd.InitDefaultHelpFlag()
	if err := os.WriteFile(filepath.Join(dir, name(cmd)+".1"), []byte(Page(cmd, version)), 0o644); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	for _, sub := range shown(cmd) {
		if err := Write(dir, sub, version); err != nil {
			return err
		}
	}
	return nil
}

// Page is the man page of one command. version names the release that it belongs to.
func Page(cmd *cobra.Command, version string) string {
	var p page
	p.macro("TH", strings.ToUpper(name(cmd)), "1", "", cmd.Root().Name()+" "+version, "User Commands")
	p.macro("SH", "NAME")
	p.text(name(cmd) + " - " + cmd.Short)
	p.macro("SH", "SYNOPSIS")
	p.bold(cmd.UseLine())
	if cmd.Long != "" {
		p.macro("SH", "DESCRIPTION")
		p.text(cmd.Long)
	}
	if subs := shown(cmd); len(subs) > 0 {
		p.macro("SH", "COMMANDS")
		for _, sub := range subs {
			p.macro("TP")
			p.bold(sub.Name())
			p.text(sub.Short + ".")
		}
	}
	p.flags("OPTIONS", cmd.NonInheritedFlags())
	p.flags("COMMON OPTIONS", cmd.InheritedFlags())
	if cmd.Example != "" {
		p.macro("SH", "EXAMPLES")
		p.literal(cmd.Example)
	}
	p.macro("SH", "EXIT STATUS")
	p.text("0 when done, 1 when it failed, 2 when the command line makes no sense.")
	var also []string
	if cmd.HasParent() {
		also = append(also, cmd.Parent().CommandPath())
	}
	for _, sub := range shown(cmd) {
		also = append(also, sub.CommandPath())
	}
	if len(also) > 0 {
		p.macro("SH", "SEE ALSO")
		for i, path := range also {
			comma := ","
			if i == len(also)-1 {
				comma = ""
			}
			p.macro("BR", strings.ReplaceAll(path, " ", "-"), "(1)"+comma)
		}
	}
	return p.String()
}

// name is the name of a command's page.
func name(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// shown are the commands below cmd that users are told of.
func shown(cmd *cobra.Command) []*cobra.Command {
	var subs []*cobra.Command
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			subs = append(subs, sub)
		}
	}
	return subs
}

// page is a man page being written.
type page struct{ strings.Builder }

// macro writes a macro with its arguments.
func (p *page) macro(name string, args ...string) {
	p.WriteString("." + name)
	for _, a := range args {
		p.WriteString(` "` + strings.ReplaceAll(escape(a), `"`, `\(dq`) + `"`)
	}
	p.WriteByte('\n')
}

// bold writes a line in bold.
func (p *page) bold(s string) { p.WriteString(`\fB` + escape(s) + `\fP` + "\n") }

// text writes prose. An empty line starts a paragraph.
func (p *page) text(s string) {
	for line := range strings.SplitSeq(s, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			p.macro("PP")
			continue
		}
		p.line(line)
	}
}

// literal writes lines as they are.
func (p *page) literal(s string) {
	p.macro("EX")
	for line := range strings.SplitSeq(s, "\n") {
		p.line(line)
	}
	p.macro("EE")
}

// line writes one line, which is no request even if it begins like one.
func (p *page) line(s string) {
	s = escape(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	p.WriteString(s + "\n")
}

// flags writes a section with a command's flags.
func (p *page) flags(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.macro("SH", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		spelling := "--" + f.Name
		if f.Shorthand != "" {
			spelling = "-" + f.Shorthand + ", " + spelling
		}
		p.macro("TP")
		p.WriteString(`\fB` + escape(spelling) + `\fP`)
		if value != "" {
			p.WriteString(` \fI` + escape(value) + `\fP`)
		}
		p.WriteByte('\n')
		p.text(usage)
	})
}

// escape makes s safe within a line: a backslash is a backslash, and a hyphen can be copied as one.
func escape(s string) string { return strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(s) }
