//go:build linux

package gauntlet

import (
	"slices"
	"strings"
)

// Every row holds through every door: what must not be reached is the same. The log is not always. What one door sees as a
// frame, and drops by a name for what is wrong with it, another one's kernel may not even take for a packet.

// unlike is how a row differs through a door from what it says of itself.
type unlike struct {
	why string
	// record takes the place of [Row.Record].
	record []string
	// lawful says that the attack is none there, so that nobody is asked for harm.
	lawful bool
}

// throughTProxy are the rows that differ through the tproxy door, by their ID.
var throughTProxy = map[string]unlike{
	"reach/no-tun":                 {why: "this door needs no link", record: []string{"network-connect verdict=deny dest_ip=203.0.113.66"}},
	"dns/llmnr6":                   {why: "the namespace has no route to an IPv6 group, and the socket is told so"},
	"packets/echo-tunnel":          {why: "ICMP is dropped by the rules of the namespace before anybody judges it", record: dropped("drop-protocol")},
	"door/foreign-source":          {why: "every address is local, so that the kernel takes it for a source, and the rules do not", record: dropped("drop-source")},
	"door/fake-answer":             {why: "ICMP is dropped by the rules of the namespace before anybody judges it", record: dropped("drop-protocol")},
	"packets/tunnel-link":          {why: "a tunnel needs a link of the outside to lie on"},
	"packets/ndp-spoof":            {why: noFrames, record: dropped("drop-source")},
	"packets/router-advertisement": {why: noFrames, record: dropped("drop-source")},
	"packets/second-address":       {why: noFrames, record: dropped("drop-source")},
	"packets/transparent-socket":   {why: noFrames, record: dropped("drop-source")},
	"packets/spoofed-source6":      {why: noFrames, record: dropped("drop-source")},
	"packets/extension-headers":    {why: noFrames, record: deniedAt(Evil6, "dest_port=7 protocol=udp")},
	"packets/long-header-chain":    {why: "the kernel looks through the whole chain, and what is behind it is an honest datagram to an allowed server", record: []string{"network-connect verdict=allow dest_ip=2001:db8:1::10"}, lawful: true},
}

// throughBoth are those of the door that has a link for what is neither TCP nor UDP.
var throughBoth = map[string]unlike{
	"packets/second-address":     {why: "UDP meets the rules of the tproxy door", record: dropped("drop-source")},
	"packets/transparent-socket": {why: "UDP meets the rules of the tproxy door", record: dropped("drop-source")},
}

// noFrames is why what a frame can say differs.
const noFrames = "there is no link whose frames somebody would read. On lo the kernel takes IPv4 that did not come out of its own sockets for martian, and drops it; IPv6 meets the rules"

// droppedAs are the names that the rules of the tproxy door have for what the netstack door calls otherwise.
var droppedAs = map[string]string{
	"drop-spoofed-source":   "drop-source",
	"drop-foreign-mac":      "drop-multicast", // a broadcast
	"drop-unknown-protocol": "drop-protocol",
	"drop-icmp-size":        "drop-protocol",
}

// through is the row as it has to hold through a door.
func (r Row) through(door string) Row {
	table := map[string]map[string]unlike{"tproxy": throughTProxy, "both": throughBoth}[door]
	switch u, ok := table[r.ID]; {
	case ok:
		r.Record = u.record
		if u.lawful {
			r.Harm = func(*Stage) bool { return false }
		}
		if door == "tproxy" && r.ID == "packets/echo-tunnel" {
			r.Lifted = nil // no rule lifts it
		}
	case door == "tproxy" && r.frames:
		r.Record = nil
	case door == "tproxy":
		r.Record = slices.Clone(r.Record)
		for i := range r.Record {
			for from, to := range droppedAs {
				r.Record[i] = strings.ReplaceAll(r.Record[i], "what="+from, "what="+to)
			}
		}
	}
	return r
}
