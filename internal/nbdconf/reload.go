package nbdconf

// Added returns the exports of a configuration read later whose names this one has not. Upon SIGHUP nbd-server(1) begins to
// serve those, and leaves everything else as it is.
func (c *Config) Added(later *Config) []*Export {
	names := make(map[string]bool, len(c.Exports))
	for _, x := range c.Exports {
		names[x.Name] = true
	}
	var added []*Export
	for _, x := range later.Exports {
		if !names[x.Name] {
			added = append(added, x)
		}
	}
	return added
}
