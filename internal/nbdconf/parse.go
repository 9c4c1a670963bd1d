package nbdconf

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// errEmpty is a file without any section.
var errEmpty = errors.New("has no section; the first must be [generic]")

// Parse reads a configuration file, the files of its includedir, and its authfiles. Its error is Errors with all that is
// wrong in them. A file without exports is not wrong: the command line may bring one.
//
// Where nbd-server overlooks a mistake, this does not: keys that nobody knows, keys and sections given twice, values out of
// range, and keys that do nothing without another are errors.
func Parse(path string) (*Config, error) {
	c, _, err := parse(disk{}, path)
	return c, err
}

// parse is Parse for any source of files. It also returns the places of the keys of [generic].
func parse(src source, path string) (*Config, places, error) {
	data, err := src.read(path)
	if err != nil {
		return nil, nil, Errors{{Pos: Pos{File: path}, Err: err}}
	}
	p := parser{src: src, main: path, config: NewConfig(), names: map[string]*Export{}}
	generic := p.mainFile(data)
	if len(p.errs) > 0 {
		return nil, nil, p.errs
	}
	return p.config, generic, nil
}

// parser collects what a file and those it includes say, and what is wrong with them.
type parser struct {
	src    source
	main   string // the path of the main file
	config *Config
	names  map[string]*Export
	hasTLS bool // there is a keyfile, be it right or wrong
	errs   Errors
	auth   []authFile
}

// authFile is the authfile of an export, to be read when the configuration is.
type authFile struct {
	section section
	export  *Export
	pos     Pos
}

// places says where each key of a section is.
type places map[string]Pos

// fail notes an error.
func (p *parser) fail(s section, key string, pos Pos, err error) {
	p.errs = append(p.errs, &Error{Pos: pos, Section: s.name, Key: key, Err: err})
}

// file reads the sections of one file, and sorts the errors found in it by line.
func (p *parser) file(path string, data []byte, read func([]section)) {
	first := len(p.errs)
	sections, errs := parseKeyFile(path, data)
	p.errs = append(p.errs, errs...)
	read(sections)
	slices.SortStableFunc(p.errs[first:], byLine)
}

// mainFile reads the file that begins with [generic], and then those that it includes.
func (p *parser) mainFile(data []byte) (generic places) {
	p.file(p.main, data, func(sections []section) {
		switch {
		case len(sections) == 0:
			if len(p.errs) == 0 {
				p.errs = append(p.errs, &Error{Pos: Pos{File: p.main}, Err: errEmpty})
			}
			return
		case sections[0].name != string(Generic):
			p.fail(sections[0], "", sections[0].pos, errors.New("the first section must be [generic], even if it is empty"))
		default:
			generic = p.generic(sections[0])
			sections = sections[1:]
		}
		for _, s := range sections {
			if s.name == string(Generic) {
				p.fail(s, "", s.pos, errors.New("must be the first section, and there can be only one"))
				continue
			}
			p.export(s)
		}
	})
	if p.config.IncludeDir != "" {
		p.include(generic["includedir"])
	}
	for _, a := range p.auth {
		p.allow(a)
	}
	return generic
}

// include reads the *.conf files of includedir, which is named at pos.
func (p *parser) include(pos Pos) {
	files, err := p.src.list(p.config.IncludeDir)
	if err != nil {
		p.fail(section{name: string(Generic)}, "includedir", pos, err)
		return
	}
	for _, path := range files {
		if !strings.HasSuffix(path, ".conf") {
			continue
		}
		data, err := p.src.read(path)
		if err != nil {
			p.errs = append(p.errs, &Error{Pos: Pos{File: path}, Err: err})
			continue
		}
		p.file(path, data, func(sections []section) {
			for _, s := range sections {
				if s.name == string(Generic) {
					p.fail(s, "", s.pos, fmt.Errorf("an included file has exports only; move this into %s", p.main))
					continue
				}
				p.export(s)
			}
		})
	}
}

// keys reads the entries of a section into c or x, and returns where each key is.
func (p *parser) keys(s section, in Section, c *Config, x *Export) places {
	at := places{}
	for _, e := range s.entries {
		if before, twice := at[e.key]; twice {
			p.fail(s, e.key, e.pos, fmt.Errorf("is set at %s already", before))
			continue
		}
		at[e.key] = e.pos
		if err := setKey(in, c, x, e); err != nil {
			p.fail(s, e.key, e.pos, err)
		}
	}
	return at
}

// setKey reads one entry.
func setKey(in Section, c *Config, x *Export, e entry) error {
	k := lookup(in, e.key)
	switch {
	case k == nil:
		return unknown(in, e.key)
	case k.Refused == "":
		return k.set(c, x, e.value)
	case k.Type == Boolean:
		// A refused boolean that is false asks for nothing.
		var on bool
		if err := setBool(&on, e.value); err != nil || !on {
			return err
		}
	}
	return errors.New("refused: " + k.Refused)
}

// unknown says what a key that nobody knows may have been meant to be.
func unknown(in Section, name string) error {
	other := PerExport
	if in == PerExport {
		other = Generic
	}
	switch near := nearest(name, in); {
	case lookup(other, name) != nil && other == Generic:
		return errors.New("is a key of [generic], not of an export; move it there")
	case lookup(other, name) != nil:
		return errors.New("is a key of exports, not of [generic]; move it to a section of its own name")
	case near != "":
		return fmt.Errorf("unknown key; is it %s?", near)
	default:
		return errors.New("unknown key; see nbd-server(5)")
	}
}

// generic reads the section [generic].
func (p *parser) generic(s section) places {
	c := p.config
	at := p.keys(s, Generic, c, nil)
	if _, p.hasTLS = at["keyfile"]; !p.hasTLS {
		for _, key := range []string{"certfile", "cacertfile", "force_tls", "tlsprio"} {
			if pos, set := at[key]; set && (key != "force_tls" || c.ForceTLS) {
				p.fail(s, key, pos, errors.New("needs keyfile: without it there is no TLS"))
			}
		}
	}
	if c.CertFile == "" {
		c.CertFile = c.KeyFile
	}
	return at
}

// export reads the section of an export.
func (p *parser) export(s section) {
	x := NewExport(s.name)
	if other, twice := p.names[s.name]; twice {
		p.fail(s, "", s.pos, fmt.Errorf("a section of this name is at %s already", other.Pos))
	} else {
		p.names[s.name] = x
	}
	x.Pos = s.pos
	p.config.Exports = append(p.config.Exports, x)
	at := p.keys(s, PerExport, nil, x)
	if _, ok := at["exportname"]; !ok {
		p.fail(s, "", s.pos, errors.New("exportname is missing: the path of the file to serve"))
	}
	for _, bad := range x.conflicts() {
		p.fail(s, bad.key, at[bad.key], bad.err)
	}
	if x.ForceTLS && !p.hasTLS {
		p.fail(s, "force_tls", at["force_tls"], errors.New("needs keyfile in [generic]: without it there is no TLS"))
	}
	if x.AuthFile != "" {
		p.auth = append(p.auth, authFile{s, x, at["authfile"]})
	}
}

// allow reads an authfile.
func (p *parser) allow(a authFile) {
	var err error
	if a.export.Allow, err = a.export.readAllow(p.src); err == nil {
		return
	}
	var lines Errors
	if errors.As(err, &lines) {
		p.errs = append(p.errs, lines...)
		return
	}
	p.fail(a.section, "authfile", a.pos, err)
}

// readAllow reads the authfile, if there is one.
func (x *Export) readAllow(src source) ([]netip.Prefix, error) {
	if x.AuthFile == "" {
		return nil, nil
	}
	return readAllowList(src, x.AuthFile)
}

// conflict is a key that does not go with the others of its section.
type conflict struct {
	key string
	err error
}

// conflicts returns what in an export does not go together.
func (x *Export) conflicts() (all []conflict) {
	check := func(wrong bool, key, why string) {
		if wrong {
			all = append(all, conflict{key, errors.New(why)})
		}
	}
	if _, err := ExpandName(x.Path, x.VirtStyle, netip.Addr{}); err != nil {
		all = append(all, conflict{"exportname", err})
	}
	check(x.Splice && x.CopyOnWrite, "splice", "cannot be used with copyonwrite; remove one")
	check(x.Temporary && x.MultiFile, "temporary", "cannot be used with multifile; remove one")
	check(x.Temporary && x.FileSize == 0, "temporary", "needs filesize: a new file has no size of its own")
	return all
}
