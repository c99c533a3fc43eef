//go:build linux

package gauntlet

import (
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

// ncsi is the EtherType of NC-SI, which stacks for virtual machines answer.
const ncsi = 0x88f8

// shortRows end before their header says, for a reader that goes on in the memory behind them.
func shortRows() []Row {
	return []Row{
		onTheLink(Row{
			ID: "packets/short-frames", Vector: "ARP and NC-SI that end inside their header, an ICMPv6 echo longer than its frame", Right: "dropped and counted; nobody answers",
			Source: "CVE-2020-10756, CVE-2020-29129, CVE-2020-29130", Prepare: tokenOnWire, Harm: onWire(1),
			Record: slices.Concat(dropped("drop-arp"), dropped("drop-ethertype"), dropped("drop-malformed-ip")),
		}, func(a *Attacker, w *wire) error {
			token := []byte(a.Token)
			echo := w.udp6(Shop6, a.Token).bytes()
			binary.BigEndian.PutUint16(echo[4:], uint16(len(echo)+1000)) // the payload length
			echo[6] = unix.IPPROTO_ICMPV6
			return errors.Join(w.frame(unix.ETH_P_ARP, token), w.frame(ncsi, token), w.packet(echo))
		}),
	}
}
