package nbdconf

// Reasons that keys share.
const (
	refusedOldstyle = "gone from nbd-server since 3.10; remove it, clients ask for exports by name"
	refusedListen   = "nbd-server ignores it, and serves at every address; set it in [generic]"
	refusedSDP      = "gone from Linux; remove it"
	refusedTLSOnly  = "nbd-server documents it and never reads it; write force_tls"
	refusedAuto     = "nbd-server knows no such key; write readonly"
	refusedLog      = "a log of simple replies, which few clients get here; remove it, and record the network if you must"
	refusedTree     = "a file for each 4096 bytes; remove it, and serve one sparse file of that size, with filesize"
	refusedWait     = "it serves a disk before its bytes are there; remove it, and start when they are"
)

// keys is what the parser, the writer and the documentation know of keys. It is in the order in which they are written.
var keys = []Key{
	{
		Section: Generic, Name: "allowlist", Type: Boolean, Does: "clients may list the exports",
		field: func(c *Config, _ *Export) any { return &c.AllowList },
	},
	{
		Section: Generic, Name: "cacertfile", Type: Path, Does: "clients need a certificate of this CA",
		field: func(c *Config, _ *Export) any { return &c.CACertFile },
	},
	{
		Section: Generic, Name: "certfile", Type: Path, Does: "the server's certificate; keyfile unless set",
		field: func(c *Config, _ *Export) any { return &c.CertFile },
	},
	{
		Section: Generic, Name: "duallisten", Type: Boolean, Does: "TCP beside unixsock",
		field: func(c *Config, _ *Export) any { return &c.DualListen },
	},
	{
		Section: Generic, Name: "force_tls", Type: Boolean, Does: "nothing but STARTTLS before TLS",
		field: func(c *Config, _ *Export) any { return &c.ForceTLS },
	},
	{
		Section: Generic, Name: "group", Type: String, Does: "the group to run as",
		field: func(c *Config, _ *Export) any { return &c.Group },
	},
	{
		Section: Generic, Name: "includedir", Type: Path, Does: "the directory of more exports, in *.conf",
		field: func(c *Config, _ *Export) any { return &c.IncludeDir },
	},
	{
		Section: Generic, Name: "keyfile", Type: Path, Does: "the server's private key; turns TLS on",
		field: func(c *Config, _ *Export) any { return &c.KeyFile },
	},
	{
		Section: Generic, Name: "listenaddr", Type: String, Flag: "IP@", Does: "the addresses to listen at, with commas",
		field: func(c *Config, _ *Export) any { return &c.Listen },
	},
	{
		Section: Generic, Name: "max_threads", Type: Integer, Default: "4", Min: 1, Does: "requests worked on at once",
		field: func(c *Config, _ *Export) any { return &c.MaxThreads },
	},
	{
		Section: Generic, Name: "oldstyle", Type: Boolean, Does: "the old handshake, a port for each export",
		Refused: refusedOldstyle,
	},
	{
		Section: Generic, Name: "port", Type: String, Default: "10809", Flag: "PORT", Does: "the TCP port; 0 is stdin",
		field: func(c *Config, _ *Export) any { return (*port)(&c.Port) },
	},
	{
		Section: Generic, Name: "splice", Type: Boolean, Does: "splice(2) may be used",
		field: func(c *Config, _ *Export) any { return &c.Splice },
	},
	{Section: Generic, Name: "tlsonly", Type: Boolean, Does: "another name of force_tls", Refused: refusedTLSOnly},
	{
		Section: Generic, Name: "tlsprio", Type: String, Does: "versions of TLS, as a GnuTLS priority string",
		Default: "NORMAL:+VERS-TLS-ALL:-VERS-TLS1.0:-VERS-TLS1.1:%SERVER_PRECEDENCE",
		field:   func(c *Config, _ *Export) any { return &c.TLS },
	},
	{
		Section: Generic, Name: "unixsock", Type: Path, Does: "a unix socket to listen at, instead of TCP",
		field: func(c *Config, _ *Export) any { return &c.UnixSocket },
	},
	{
		Section: Generic, Name: "user", Type: String, Does: "the user to run as",
		field: func(c *Config, _ *Export) any { return &c.User },
	},

	{
		Section: PerExport, Name: "authfile", Type: Path, Flag: "-l", Does: "the networks that may connect",
		field: func(_ *Config, x *Export) any { return &x.AuthFile },
	},
	{Section: PerExport, Name: "autoreadonly", Type: Boolean, Does: "read-only where the file is", Refused: refusedAuto},
	{
		Section: PerExport, Name: "copyonwrite", Type: Boolean, Flag: "-c", Does: "each client's writes are its own, and then lost",
		field: func(_ *Config, x *Export) any { return &x.CopyOnWrite },
	},
	{
		Section: PerExport, Name: "cowdir", Type: Path, Does: "where those writes go; beside the file unless set",
		field: func(_ *Config, x *Export) any { return &x.CowDir },
	},
	{Section: PerExport, Name: "datalog", Type: Boolean, Does: "transactionlog has the data too", Refused: refusedLog},
	{
		Section: PerExport, Name: "exportname", Type: Path, Flag: "FILE", Does: "the file to serve; required",
		field: func(_ *Config, x *Export) any { return &x.Path },
	},
	{
		Section: PerExport, Name: "filesize", Type: Integer, Flag: "SIZE", Does: "bytes to serve; those of the file unless set",
		field: func(_ *Config, x *Export) any { return &x.FileSize },
	},
	{
		Section: PerExport, Name: "flush", Type: Boolean, Does: "announces FLUSH",
		field: func(_ *Config, x *Export) any { return &x.Flush },
	},
	{
		Section: PerExport, Name: "force_tls", Type: Boolean, Does: "hidden from clients without TLS",
		field: func(_ *Config, x *Export) any { return &x.ForceTLS },
	},
	{
		Section: PerExport, Name: "fua", Type: Boolean, Does: "announces FUA",
		field: func(_ *Config, x *Export) any { return &x.FUA },
	},
	{Section: PerExport, Name: "listenaddr", Type: String, Does: "of the old handshake", Refused: refusedListen},
	{
		Section: PerExport, Name: "maxconnections", Type: Integer, Flag: "-M", Does: "clients at once; 0 is any number",
		field: func(_ *Config, x *Export) any { return &x.MaxConnections },
	},
	{
		Section: PerExport, Name: "multifile", Type: Boolean, Flag: "-m", Does: "serves FILE.0, FILE.1, … as one",
		field: func(_ *Config, x *Export) any { return &x.MultiFile },
	},
	{Section: PerExport, Name: "port", Type: String, Does: "of the old handshake", Refused: refusedOldstyle},
	{
		Section: PerExport, Name: "postrun", Type: String, Does: "the command after a client; %s is the file",
		field: func(_ *Config, x *Export) any { return &x.PostRun },
	},
	{
		Section: PerExport, Name: "prerun", Type: String, Does: "the command before a client; may refuse it",
		field: func(_ *Config, x *Export) any { return &x.PreRun },
	},
	{
		Section: PerExport, Name: "readonly", Type: Boolean, Flag: "-r", Does: "writes fail",
		field: func(_ *Config, x *Export) any { return &x.ReadOnly },
	},
	{
		Section: PerExport, Name: "rotational", Type: Boolean, Does: "announces that order of requests matters",
		field: func(_ *Config, x *Export) any { return &x.Rotational },
	},
	{Section: PerExport, Name: "sdp", Type: Boolean, Does: "SDP instead of TCP", Refused: refusedSDP},
	{
		Section: PerExport, Name: "sparse_cow", Type: Boolean, Does: "the file of copyonwrite is sparse",
		field: func(_ *Config, x *Export) any { return &x.SparseCow },
	},
	{
		Section: PerExport, Name: "splice", Type: Boolean, Does: "splice(2) may be used",
		field: func(_ *Config, x *Export) any { return &x.Splice },
	},
	{
		Section: PerExport, Name: "sync", Type: Boolean, Does: "each write is durable when answered",
		field: func(_ *Config, x *Export) any { return &x.Sync },
	},
	{
		Section: PerExport, Name: "temporary", Type: Boolean, Does: "serves a fresh file of filesize",
		field: func(_ *Config, x *Export) any { return &x.Temporary },
	},
	{
		Section: PerExport, Name: "timeout", Type: Integer, Does: "seconds that a client may be idle; 0 is for ever",
		field: func(_ *Config, x *Export) any { return &x.Timeout },
	},
	{Section: PerExport, Name: "tlsonly", Type: Boolean, Does: "another name of force_tls", Refused: refusedTLSOnly},
	{Section: PerExport, Name: "transactionlog", Type: Path, Does: "a log of requests and replies", Refused: refusedLog},
	{Section: PerExport, Name: "treefiles", Type: Boolean, Does: "a tree of files of 4096 bytes", Refused: refusedTree},
	{
		Section: PerExport, Name: "trim", Type: Boolean, Does: "announces TRIM",
		field: func(_ *Config, x *Export) any { return &x.Trim },
	},
	{
		Section: PerExport, Name: "virtstyle", Type: String, Default: "ipliteral", Does: "what %s in exportname becomes",
		field: func(_ *Config, x *Export) any { return &x.VirtStyle },
	},
	{Section: PerExport, Name: "waitfile", Type: Boolean, Does: "writes are kept until SIGUSR1", Refused: refusedWait},
}
