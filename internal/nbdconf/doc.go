// Package nbdconf reads what nbd-server is told: its configuration file, nbd-server(5), its command line, nbd-server(1), and
// the files of networks that may connect. It says what they ask for and serves nothing.
//
// Every key is honoured, which means that it is a field of Config or Export, or refused by its name and with a reason. A key
// that nobody knows is an error too: nbd-server skips it, and a misspelt readonly is then a disk that can be written. The
// sources are the manual pages of nbd-server 3.24 to 3.27, and what 3.24 does when it is run; where those differ, and where
// this package differs from both, the comments of ExpandName, Parse, ParseArgs and Load say so.
//
// # Keys
//
// The table is Keys, written out; a test keeps it so. A boolean that is refused may still be false.
//
// Section [generic]:
//
//	allowlist       boolean  clients may list the exports
//	cacertfile      path     clients need a certificate of this CA
//	certfile        path     the server's certificate; keyfile unless set
//	duallisten      boolean  TCP beside unixsock
//	force_tls       boolean  nothing but STARTTLS before TLS
//	group           string   the group to run as
//	includedir      path     the directory of more exports, in *.conf
//	keyfile         path     the server's private key; turns TLS on
//	listenaddr      string   the addresses to listen at, with commas; IP@
//	max_threads     integer  requests worked on at once; default 4
//	oldstyle        boolean  the old handshake, a port for each export
//	                         refused: gone from nbd-server since 3.10; remove it, clients ask for exports by name
//	port            string   the TCP port; 0 is stdin; default 10809; PORT
//	splice          boolean  splice(2) may be used
//	tlsonly         boolean  another name of force_tls
//	                         refused: nbd-server documents it and never reads it; write force_tls
//	tlsprio         string   versions of TLS, as a GnuTLS priority string
//	unixsock        path     a unix socket to listen at, instead of TCP
//	user            string   the user to run as
//
// Section [export]:
//
//	authfile        path     the networks that may connect; -l
//	autoreadonly    boolean  read-only where the file is
//	                         refused: nbd-server knows no such key; write readonly
//	copyonwrite     boolean  each client's writes are its own, and then lost; -c
//	cowdir          path     where those writes go; beside the file unless set
//	datalog         boolean  transactionlog has the data too
//	                         refused: a log of simple replies, which few clients get here; remove it, and record the network if you must
//	exportname      path     the file to serve; required; FILE
//	filesize        integer  bytes to serve; those of the file unless set; SIZE
//	flush           boolean  announces FLUSH
//	force_tls       boolean  hidden from clients without TLS
//	fua             boolean  announces FUA
//	listenaddr      string   of the old handshake
//	                         refused: nbd-server ignores it, and serves at every address; set it in [generic]
//	maxconnections  integer  clients at once; 0 is any number; -M
//	multifile       boolean  serves FILE.0, FILE.1, … as one; -m
//	port            string   of the old handshake
//	                         refused: gone from nbd-server since 3.10; remove it, clients ask for exports by name
//	postrun         string   the command after a client; %s is the file
//	prerun          string   the command before a client; may refuse it
//	readonly        boolean  writes fail; -r
//	rotational      boolean  announces that order of requests matters
//	sdp             boolean  SDP instead of TCP
//	                         refused: gone from Linux; remove it
//	sparse_cow      boolean  the file of copyonwrite is sparse
//	splice          boolean  splice(2) may be used
//	sync            boolean  each write is durable when answered
//	temporary       boolean  serves a fresh file of filesize
//	timeout         integer  seconds that a client may be idle; 0 is for ever
//	tlsonly         boolean  another name of force_tls
//	                         refused: nbd-server documents it and never reads it; write force_tls
//	transactionlog  path     a log of requests and replies
//	                         refused: a log of simple replies, which few clients get here; remove it, and record the network if you must
//	treefiles       boolean  a tree of files of 4096 bytes
//	                         refused: a file for each 4096 bytes; remove it, and serve one sparse file of that size, with filesize
//	trim            boolean  announces TRIM
//	virtstyle       string   what %s in exportname becomes; default ipliteral
//	waitfile        boolean  writes are kept until SIGUSR1
//	                         refused: it serves a disk before its bytes are there; remove it, and start when they are
package nbdconf
