// Package nbdkernel configures the block devices of Linux's NBD driver over generic netlink: it hands the driver sockets on
// which a server waits for requests, changes devices that are in use, and takes them down. What there is it reads from
// sysfs. It knows nothing of servers: negotiating with one is its caller's business.
//
// What the driver does, and its documents do not say (Linux 6.1 to 6.12):
//
//   - The driver speaks the transmission phase with simple replies only.
//   - A connection that ends is dead until Reconfigure brings another. The requests that were under way on it are not sent
//     again at once: each waits until its own timeout is over, and is then sent on another connection. So the timeout is also
//     how long a device stands still after its server was restarted.
//   - When no connection is alive, requests wait for the dead-connection timeout, then everything fails with EIO. With 0 it
//     fails at once.
//   - A request that is not answered within the timeout kills its connection. A device with one connection and no timeout
//     waits for ever; one with several and no timeout waits 30 s.
//     What the server has of that connection it may carry out later than what is sent again, and than what follows.
//   - Reconfigure takes as many sockets as there are dead connections, and ignores the others without a word. See Taken.
//   - Whoever reads from a connection looks up its socket before each read. One that is not through with a connection when
//     Reconfigure replaces it goes on with the new socket, beside that one's own reader: the two tear its replies apart, and what
//     is read from the device is wrong. See Receivers.
//   - Each connection has a worker that reads for as long as it lasts. When the kernel has no memory for more workers, one that a
//     device's queue has in reserve serves the first connection, and nobody reads from the others.
//   - Disconnect waits for the lock of whoever is sending. A sender is stuck when the server takes nothing any more; so shut
//     the sockets down first.
package nbdkernel
