package nbd

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// selection is a metadata context that a client selected, and the number by which it is known to the client.
type selection struct {
	id uint32
	Context
}

// findSelection returns the one of list that has the id.
func findSelection(list []selection, id uint32) (selection, bool) {
	i := slices.IndexFunc(list, func(c selection) bool { return c.id == id })
	if i < 0 {
		return selection{}, false
	}
	return list[i], true
}

// contexts are all metadata contexts of x that a client with or without extended headers can select.
func (x *Export) contexts(extended bool) []selection {
	list := []selection{{1, allocation(x.Device)}}
	for i, c := range x.Contexts {
		if extended || !c.Wide {
			list = append(list, selection{uint32(2 + i), c})
		}
	}
	return list
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT, "Metadata querying".
func (n *negotiation) metaContext(option uint32) {
	set := option == optSetMetaContext
	if set {
		n.selected = nil // also when what follows is wrong
	}
	if n.session.style == styleSimple {
		n.refuse(option, repErrInvalid, "metadata contexts need structured replies")
		return
	}
	name, rest, ok := cutString(n.data)
	queries, valid := parseQueries(rest)
	if !ok || !valid {
		n.refuse(option, repErrInvalid, "lengths in this option do not add up")
		return
	}
	export, ok := n.exports.find(name)
	if !ok {
		n.refuse(option, repErrUnknown, fmt.Sprintf("no export named %q", name))
		return
	}
	for _, c := range export.contexts(n.session.extended()) {
		if !c.matches(queries, set) {
			continue
		}
		id := uint32(0) // reserved when listing
		if set {
			id = c.id
			n.selected = append(n.selected, c)
		}
		n.reply(option, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), c.Name...))
	}
	if set {
		n.selectedFor = export.Name
	}
	n.reply(option, repAck, nil)
}

// matches says whether a client that sent these queries means c. Only when listing, no query means every context, and a
// namespace with its colon all of that namespace.
func (c *selection) matches(queries []string, set bool) bool {
	namespace := c.Name[:strings.Index(c.Name, ":")+1]
	return !set && len(queries) == 0 ||
		slices.ContainsFunc(queries, func(q string) bool { return q == c.Name || !set && q == namespace })
}

// contextsOf returns the metadata contexts that the client selected, if it did so for export x. When x was replaced
// meanwhile by one that lacks any of them, it has none.
func (n *negotiation) contextsOf(x *Export) (list []selection) {
	if n.selectedFor != x.Name {
		return nil
	}
	for _, c := range x.contexts(n.session.extended()) {
		if slices.ContainsFunc(n.selected, func(s selection) bool { return s.id == c.id && s.Name == c.Name }) {
			list = append(list, c)
		}
	}
	if len(list) != len(n.selected) {
		return nil
	}
	return list
}

// parseQueries reads a number of queries and as many strings, which are all of b.
func parseQueries(b []byte) (queries []string, ok bool) {
	if len(b) < 4 {
		return nil, false
	}
	count, b := binary.BigEndian.Uint32(b), b[4:]
	for ; count > 0; count-- {
		var q string
		if q, b, ok = cutString(b); !ok {
			return nil, false
		}
		queries = append(queries, q)
	}
	return queries, len(b) == 0
}
