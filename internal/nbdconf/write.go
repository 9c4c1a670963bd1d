package nbdconf

import (
	"fmt"
	"io"
	"strings"
)

// WriteTo writes the configuration as one file, which Parse reads back: with the exports of included files in it and so
// without includedir, and without keys that have their default. It implements io.WriterTo. An export that a file cannot
// hold, as one without a name, is an error, and nothing is written.
func (c *Config) WriteTo(w io.Writer) (int64, error) {
	flat := *c
	flat.IncludeDir = ""
	if flat.CertFile == flat.KeyFile {
		flat.CertFile = ""
	}
	var b strings.Builder
	if err := writeSection(&b, Generic, string(Generic), &flat, nil); err != nil {
		return 0, err
	}
	for _, x := range c.Exports {
		text, err := x.Section(x.Name)
		if err != nil {
			return 0, err
		}
		b.WriteString("\n" + text)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// Section writes the export as the section of a configuration file, under a name of its own: what nbd-server -o does. It
// leaves out keys that have their default.
func (x *Export) Section(name string) (string, error) {
	if !validName(name) || name == string(Generic) {
		return "", fmt.Errorf("%q cannot be the name of a section: %w; nor is it generic", clip(name), errHeader)
	}
	var b strings.Builder
	err := writeSection(&b, PerExport, name, nil, x)
	return b.String(), err
}

// writeSection writes the keys of a section that are not as by default.
func writeSection(b *strings.Builder, in Section, name string, c *Config, x *Export) error {
	fmt.Fprintf(b, "[%s]\n", name)
	defaultConfig, defaultExport := NewConfig(), NewExport("")
	for _, k := range keys {
		if k.Section != in || k.field == nil {
			continue
		}
		text, err := k.text(c, x)
		if err != nil {
			return fmt.Errorf("write section %s: %w", name, err)
		}
		usual, err := k.text(defaultConfig, defaultExport)
		if err != nil {
			return fmt.Errorf("write section %s: %w", name, err)
		}
		if text != usual {
			fmt.Fprintf(b, "\t%s = %s\n", k.Name, text)
		}
	}
	return nil
}
