//go:build linux

package gauntlet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

func packetRows() []Row {
	return slices.Concat(linkRows(), neighbourRows(), addressRows(), headerRows(), shortRows(), transportRows(),
		unprivilegedRows(), datagramRows(), channelRows(), echoRows(), groupRows())
}

// anyShop allows every port of the shop: what is wrong with a packet to it is the packet.
var anyShop = []string{"--mode", "enforce", "--allow", Shop.String() + ":*", "--allow", "[" + Shop6.String() + "]:*"}

// Addresses of the host's link that belong to nobody.
var (
	nobody4 = netip.MustParseAddr("192.0.2.77")
	nobody6 = netip.MustParseAddr("2001:db8::77")
)

// onTheLink makes r an attack with frames of its own, for which capabilities have to leak. After them the attacker says the
// mirrored token in an honest frame: in weir that has to arrive, or the row proves nothing.
func onTheLink(r Row, attack func(*Attacker, *wire) error) Row {
	r.Leaked = true
	if r.Rules == nil {
		r.Rules = anyShop
	}
	r.frames = true
	r.Attack = func(a *Attacker) error {
		w, err := openWire()
		if err != nil {
			return err
		}
		defer w.close()
		if err := attack(a, w); err != nil {
			return err
		}
		if w.loopback {
			return a.linger()
		}
		return w.converse(mirrored(a.Token))
	}
	r.Check = honestHeard
	return r
}

// linger has one honest exchange, so that all that was sent before it has been looked at when the attacker ends.
func (a *Attacker) linger() error {
	c, err := dial("udp4", at(Shop, 7))
	if err != nil {
		return err
	}
	defer c.Close()
	return tell(c, mirrored(a.Token))
}

// outcry sends to a server that is denied and waits for what becomes of it: an answer, or the refusal.
func outcry(c net.Conn, what []byte) error {
	if _, err := c.Write(what); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 65535))
	return err
}

// honestHeard is a Check: what the attacker was allowed to say has arrived.
func honestHeard(s *Stage) error {
	if s.Status != 0 {
		return fmt.Errorf("the attack did not take place: %s", s.said())
	}
	if !eventually(func() bool { return s.World.Heard(mirrored(s.Token)) }) {
		return errors.New("what is allowed did not arrive either")
	}
	return nil
}

// tokenOnWire prepares for [onWire]: a frame that shows the token.
func tokenOnWire(s *Stage) error {
	return s.watchWire(func(frame []byte) bool { return bytes.Contains(frame, []byte(s.Token)) })
}

// dropped is the event that says that weir threw such packets away, and counted them.
func dropped(what string) []string { return []string{"dropped what=" + what + " count=*"} }

// deniedAt is the event for a flow to evil.example.
func deniedAt(addr netip.Addr, rest string) []string {
	return []string{"network-connect verdict=deny dest_ip=" + addr.String() + " " + rest}
}
