// Package nbdserve does what a configuration of nbd-server asks for, with the server of package nbd: it makes its exports,
// opens its sockets and reads its keys.
//
// Like nbd-server it opens files when a client chooses their export, once for each client. So what is wrong with a file is
// found then, files may come and go while nobody has them, and each client has its own: by its address, as a copy on
// write, or as one that lasts as long as the connection.
//
// What it does otherwise:
//
//   - max_threads and splice change nothing: requests are worked on as they come, and data goes the best way there is.
//   - copyonwrite always has sparse files without names, so that nothing is left behind by a crash, whatever sparse_cow says.
//   - A client that names no export gets the first one.
//   - A prerun that succeeded is followed by its postrun, even where the file cannot be opened then.
package nbdserve
