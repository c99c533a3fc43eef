//go:build linux

package gauntlet

import (
	"net"
	"net/netip"
	"slices"

	"github.com/miekg/dns"
)

func nameRows() []Row {
	return slices.Concat(
		plainRows(), claimRows(), hiddenRows(), helloRows(), cutRows(), oversizeRows(), laterRows(), behindRows(), httpRows(), connectRows(),
		quicRows(), initialRows(), frameRows(), unreadableRows(), dtlsRows(), beyondRows(), rebindingRows(), evidenceRows(),
	)
}

// Rules that rows share. shop.example and sibling.example have one address.
var (
	shopOnly       = []string{"--allow", "shop.example"}
	siblingToo     = []string{"--allow", "shop.example", "--allow", "sibling.example"}
	shopAddressToo = []string{"--allow", "shop.example", "--allow", Shop.String() + ":*"}
	strangerToo    = []string{"--allow", "shop.example", "--allow", "{stranger}:*"}
	everywhere     = []string{"--mode", "enforce", "--allow", "@public:*"}
	notEvil        = []string{"--allow", "@public:*", "--deny", "evil.example"}
)

// The records of the two ways to be found out at an address that is right for somebody else.
const (
	mismatch  = "network-connect verdict=deny dest_ip=198.51.100.10 reason=name-mismatch"
	malformed = "network-connect verdict=deny dest_ip=198.51.100.10 reason=malformed"
	lateHello = "network-close verdict=deny dest_ip=198.51.100.10 close=policy reason=name-mismatch"
)

// learn asks for a name, so that there is evidence for it where it is allowed.
func (a *Attacker) learn(name string) { a.ask("udp", "", name, dns.TypeA) }

// atShop connects to the address of shop.example after a lookup of that name.
func (a *Attacker) atShop(port uint16) (net.Conn, error) {
	a.learn("shop.example")
	return dial("tcp", at(Shop, port))
}

// sayAtShop says raw octets there.
func (a *Attacker) sayAtShop(port uint16, raw []byte) error {
	c, err := a.atShop(port)
	if err != nil {
		return err
	}
	defer c.Close()
	return say(c, raw)
}

// stranger is the address of the row's own stranger.
func (a *Attacker) stranger(port uint16) string {
	return at(netip.MustParseAddr(a.Args["stranger"]), port)
}

// nameBreaks are the breaks of the groups names and dns.
func nameBreaks() []Break {
	return []Break{
		{"names", "flow/policy/witness.go", "return Decision{Reason: ReasonNoEvidence,", "return Decision{Verdict: Allow, Settled: true, Reason: ReasonNoEvidence,", []string{"names/lying-sni", "names/quic-lie", "names/host-lie"}},
		{"names", "flow/stream.go", "seen = h.bytes[len(h.bytes)-h.stream.Behind():]", "seen = nil", []string{"names/hello-behind-hello", "names/hello-behind-request"}},
		{"names", "internal/guard/embedded.go", "{^b[12], ^b[13], ^b[14], ^b[15]}", "{b[12], b[13], b[14], b[15]}", []string{"names/embedded-teredo"}},
		{"names", "flow/policy/decide.go", "t.name(j.q.Claim, j.k); e != nil {", "t.name(j.q.Claim, j.k); false {", []string{"names/deny-claim", "names/deny-case"}},
		{"names", "flow/sniff/quic_frames.go", "bad := stream.write(offset, data)", "bad := stream.write(0*offset, data)", []string{"names/quic-many-frames"}},
		{"names", "flow/sniff/quic_frames.go", "if offset > MaxCrypto || offset+uint64(len(data)) > MaxCrypto {", "if false {", []string{"names/quic-frame-bounds"}},
		{"dns", "flow/policy/names.go", "return NameDecision{Reason: ReasonDNSBlocked,", "return NameDecision{Verdict: Allow, Reason: ReasonDNSBlocked,", []string{"dns/label", "dns/label-tcp", "dns/label-null", "dns/reverse", "dns/server-question"}},
		{"dns", "internal/hostname/service.go", "len(label) <= MaxService &&", "", []string{"dns/service"}},
		{"dns", "resolver/inspect.go", "if end != len(raw) {", "if end > len(raw) {", []string{"dns/server-behind", "dns/server-length"}},
		{"dns", "internal/stub/message.go", "up.SetEdns0(UDPSize, opt.Do())", "up.Extra = q.Extra", []string{"dns/edns"}},
	}
}
