package nbdconf

import "net/netip"

// DefaultFile is the configuration file that nbd-server reads when it is told no other.
const DefaultFile = "/etc/nbd-server/config"

// DefaultAllowFile is the authfile of an export on the command line that names no other.
const DefaultAllowFile = "/etc/nbd-server/allow"

// DefaultPort is the port that IANA gave to NBD.
const DefaultPort = 10809

// Config is a configuration: the keys of [generic], and the exports of the file and of those it includes. NewConfig returns
// one with nbd-server's defaults.
type Config struct {
	// Listen is the addresses or names of hosts to listen at; empty means all addresses, IPv4 and IPv6.
	Listen Addresses
	// Port is the TCP port; 0 means that the one client is on stdin, as from inetd.
	Port int
	// UnixSocket is the path of a socket to listen at, "" for none. With one there is no TCP unless DualListen says so.
	UnixSocket string
	DualListen bool
	// User and Group are the names that the server takes on after it opened its sockets and before it opens any file.
	User, Group string
	// IncludeDir is the directory whose *.conf files hold more exports. They are in Exports already.
	IncludeDir string
	// AllowList lets clients ask for the names of the exports.
	AllowList bool
	// MaxThreads is how many requests are worked on at once.
	MaxThreads int
	// Splice allows splice(2) for all exports. nbd-server 3.24 documents it and never reads it.
	Splice bool
	// CertFile, KeyFile and CACertFile are PEM files. Without a KeyFile there is no TLS; CertFile is set when it is. With a
	// CACertFile clients must show a certificate.
	CertFile, KeyFile, CACertFile string
	// ForceTLS allows no option but STARTTLS before TLS.
	ForceTLS bool
	// TLS is the versions of TLS that are offered.
	TLS TLSVersions

	// Exports are in the order of the file, then those of the included files by their names. No two have one name.
	Exports []*Export
}

// Export is one export: a section of the file, or what the command line names. NewExport returns one with nbd-server's
// defaults.
type Export struct {
	// Name is what clients ask for. It is "" for the export of a command line.
	Name string
	// Pos is where the section is; the zero Pos for the export of a command line.
	Pos Pos

	// Path is the file, block device, or pattern of names (see ExpandName) that is served: the key exportname. It is absolute.
	Path string
	// FileSize is the size of the export in bytes; 0 means that it is found. A missing file is made with this size.
	FileSize  int64
	VirtStyle VirtStyle
	// AuthFile names the file of the networks that may connect, "" for none, and Allow has what Parse found in it, for Allowed.
	AuthFile string
	Allow    []netip.Prefix
	// MaxConnections is how many clients there may be at once, 0 for any number.
	MaxConnections int
	// Timeout is the seconds that a connection may be idle, 0 for ever. nbd-server 3.24 documents it and never reads it.
	Timeout int
	// ForceTLS hides the export from clients without TLS.
	ForceTLS bool
	ReadOnly bool

	// CopyOnWrite keeps each client's writes in a file of its own, in CowDir or beside Path, until the client leaves.
	CopyOnWrite bool
	CowDir      string
	// SparseCow has a block at its own offset in that file, rather than at the file's end.
	SparseCow bool

	// MultiFile serves Path.0, Path.1, … as one (see Parts).
	MultiFile bool
	// Temporary serves a fresh file of FileSize, named after Path, that is unlinked at once.
	Temporary bool

	// Flush, FUA, Rotational and Trim announce that the export supports or is so.
	Flush, FUA, Rotational, Trim bool
	// Sync makes every write durable before it is answered.
	Sync bool
	// Splice allows splice(2).
	Splice bool

	// PreRun and PostRun are shell commands (see ExpandCommand) to run before a client is served, who is refused when it
	// fails, and after it left.
	PreRun, PostRun string
}

// NewConfig returns a configuration with the default of every key and without exports.
func NewConfig() *Config {
	c := &Config{}
	setDefaults(Generic, c, nil)
	return c
}

// NewExport returns an export with the default of every key and without a path.
func NewExport(name string) *Export {
	x := &Export{Name: name}
	setDefaults(PerExport, nil, x)
	return x
}

// setDefaults sets every key of a section to its default.
func setDefaults(in Section, c *Config, x *Export) {
	for _, k := range keys {
		if k.Section != in || k.field == nil || k.Default == "" {
			continue
		}
		if err := k.set(c, x, k.Default); err != nil {
			panic("nbdconf: default of " + k.Name + ": " + err.Error())
		}
	}
}

// Find returns the export of a name, or nil when there is none.
func (c *Config) Find(name string) *Export {
	for _, x := range c.Exports {
		if x.Name == name {
			return x
		}
	}
	return nil
}
