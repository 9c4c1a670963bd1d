package nbdconf

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// Load reads the configuration file of a command line and adds the export of the command line, if it has one. With one, the
// file may be missing or empty, which is how nbd-server(1) says to do without; other mistakes in it are errors, of which
// nbd-server only warns.
//
// nbd-server takes port and listenaddr of the file before those of the command line; here two that differ are an error,
// which says which to remove. Without any export there is nothing to serve, and that is an error too.
func (c *Command) Load() (*Config, error) { return c.load(disk{}) }

func (c *Command) load(src source) (*Config, error) {
	config, at, err := parse(src, c.ConfigFile)
	if err != nil {
		if c.Export == nil || !c.absent(err) {
			return nil, err
		}
		config = NewConfig()
	}
	if c.Export != nil {
		if err := c.listen(config, at); err != nil {
			return nil, err
		}
		x := *c.Export
		if x.Allow, err = x.readAllow(src); err != nil {
			return nil, fmt.Errorf("read the networks that may connect: %w", err)
		}
		config.Exports = append(config.Exports, &x)
	}
	if len(config.Exports) == 0 {
		return nil, fmt.Errorf("%s: nothing to serve: add a section with an exportname, or name PORT and FILE", c.ConfigFile)
	}
	return config, nil
}

// absent says whether the error of parse is that there is no configuration.
func (c *Command) absent(err error) bool {
	var errs Errors
	return errors.As(err, &errs) && errs[0].Pos == Pos{File: c.ConfigFile} &&
		(errors.Is(errs[0].Err, fs.ErrNotExist) || errors.Is(errs[0].Err, errEmpty))
}

// listen takes over where the command line says to listen.
func (c *Command) listen(config *Config, at places) error {
	differs := func(key string) error {
		return fmt.Errorf("%s: %s differs from the command line's; remove one", at[key], key)
	}
	_, hasPort := at["port"]
	_, hasListen := at["listenaddr"]
	switch {
	case hasPort && config.Port != c.Port:
		return differs("port")
	case hasListen && len(c.Listen) > 0 && !slices.Equal(config.Listen, c.Listen):
		return differs("listenaddr")
	case config.UnixSocket != "" && !config.DualListen && c.Port != 0:
		return fmt.Errorf("%s: with unixsock there is no TCP for the command line's port; set duallisten, or remove one", at["unixsock"])
	}
	config.Port = c.Port
	if len(c.Listen) > 0 {
		config.Listen = c.Listen
	}
	return nil
}
