package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/mdlayher/vsock"

	"github.com/dnbd/dnbd/image"
	"github.com/dnbd/dnbd/internal/control"
	"github.com/dnbd/dnbd/internal/listen"
	"github.com/dnbd/dnbd/internal/server"
	"github.com/dnbd/dnbd/internal/size"
	"github.com/dnbd/dnbd/internal/udp"
)

// writeServing says what a server that starts does, a line for each thing.
func writeServing(w io.Writer, st server.Status, interfaces []udp.Interface, images []*image.Image, files *plain, socket string) {
	if st.Group.IsValid() {
		fmt.Fprintf(w, "server     %d\n", st.ID)
		fmt.Fprintf(w, "group      %v port %d\n", st.Group.Addr(), st.Group.Port())
	}
	if len(st.Keys) > 0 {
		fmt.Fprintf(w, "keys       %s\n", strings.Join(st.Keys, ", "))
	}
	for _, i := range interfaces {
		fmt.Fprintf(w, "interface  %s, address %v\n", i.Name, i.Addr)
	}
	for _, addr := range st.NBD.Addrs {
		fmt.Fprintf(w, "nbd        %s\n", listenerURI(addr))
	}
	for _, m := range images {
		d := m.Descriptor()
		fmt.Fprintf(w, "image      %s revision %d, %s, id %v, from %s\n", d.Name, d.Revision, size.Format(d.Size), m.ID(), m.Path())
	}
	for _, x := range files.status() {
		fmt.Fprintf(w, "export     %s, %s, from %s\n", x.Name, x.Access, x.File)
	}
	fmt.Fprintf(w, "control    %s\n", socket)
}

// listenerURI is how an NBD client names a listener (doc/uri.md of the NBD project).
func listenerURI(addr net.Addr) string {
	switch a := addr.(type) {
	case *net.TCPAddr:
		return "nbd://" + a.String()
	case *net.UnixAddr:
		return "nbd+unix:///?socket=" + a.Name
	case *vsock.Addr:
		return fmt.Sprintf("nbd+vsock://%d:%d", contextID(a), a.Port)
	}
	return addr.Network() + ":" + addr.String()
}

// contextID is by which a machine's virtual machines, or a virtual machine's host, reach a vsock listener of this machine. Where there
// are neither it is that for programs of the same machine.
func contextID(a *vsock.Addr) uint32 {
	id := a.ContextID
	if id == listen.AnyContext {
		if own, err := vsock.ContextID(); err == nil {
			id = own
		}
	}
	if id == listen.AnyContext {
		id = vsock.Local
	}
	return id
}

// serverStatus is a server's state as the control socket shows it.
func serverStatus(st server.Status, interfaces []string, files *plain, started time.Time) control.Status {
	s := &control.Server{ID: st.ID, Images: []control.Served{}, Links: []control.Link{}}
	for _, m := range st.Images {
		s.Images = append(s.Images, control.Served{Image: imageStatus(m.Descriptor), File: m.Path, Withdrawn: m.Withdrawn})
	}
	for _, l := range st.Links {
		s.Links = append(s.Links, control.Link{
			Interface: l.Interface, Address: l.Addr.String(), Clients: l.Stats.Clients, Slow: l.Stats.Slow, Rate: l.Stats.Rate, Queued: l.Stats.Queued,
			Sent: l.Stats.Bytes, Blocks: l.Stats.Blocks, Repairs: l.Stats.Repairs, Parity: l.Stats.Parity, Wants: l.Stats.Wants,
			Suppressed: l.Stats.Suppressed, Merged: l.Stats.Merged, Refused: l.Stats.Refused, Denied: l.Stats.Denied, Malformed: l.Stats.Malformed,
			Drops: l.Drops, Unopened: control.Seals(l.Unopened),
		})
	}
	if len(st.NBD.Addrs) > 0 || st.NBD.Client {
		n := st.NBD.Stats
		s.NBD = &control.NBD{
			Exports: files.status(), Connections: n.Connections, Accepted: n.Accepted, Requests: n.Requests, Failed: n.Failed, Bytes: n.Bytes,
		}
		for _, addr := range st.NBD.Addrs {
			s.NBD.URIs = append(s.NBD.URIs, listenerURI(addr))
		}
		if st.NBD.Client {
			s.NBD.URIs = append(s.NBD.URIs, "stdin")
		}
	}
	out := control.Status{Version: version, Started: started.UTC(), Interfaces: interfaces, Keys: st.Keys, Server: s}
	if st.Group.IsValid() {
		out.Group = st.Group.String()
	}
	return out
}

// imageStatus is an image as the control socket shows it.
func imageStatus(d image.Descriptor) control.Image {
	return control.Image{Name: d.Name, Revision: d.Revision, ID: d.ID().String(), Size: d.Size, BlockSize: d.BlockSize}
}
