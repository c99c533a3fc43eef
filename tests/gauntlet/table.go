//go:build linux

package gauntlet

import "slices"

// Group is a chapter of the table.
type Group struct {
	Name, About string
	rows        func() []Row
}

// Groups returns the chapters in their order.
func Groups() []Group {
	return []Group{
		{"escape", "out of the namespaces, past the kernel's walls", escapeRows},
		{"processes", "other processes, descriptors, the environment", processRows},
		{"files", "the host's files, sockets and devices", fileRows},
		{"reach", "the host, its loopback, its network, other sandboxes", reachRows},
		{"names", "a name that is not the address, an address that is not the name", nameRows},
		{"dns", "questions as a way out, answers as a way in", dnsRows},
		{"packets", "frames and packets that no program should send", packetRows},
		{"door", "what a door may have left open", doorRows},
		{"exhaustion", "more than there is", exhaustionRows},
		{"logs", "the book of what happened", logRows},
	}
}

// Rows returns the whole table.
func Rows() []Row {
	var all []Row
	for _, g := range Groups() {
		all = append(all, g.rows()...)
	}
	return all
}

// find returns the row with this ID.
func find(id string) (Row, bool) {
	rows := Rows()
	i := slices.IndexFunc(rows, func(r Row) bool { return r.ID == id })
	if i < 0 {
		return Row{}, false
	}
	return rows[i], true
}
