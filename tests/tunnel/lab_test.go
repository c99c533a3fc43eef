//go:build linux

package tunnel

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/impair"
	"github.com/weir-dev/weir/internal/testdns"
)

// staging is the name that only laptops know, each in its own way.
const staging = "staging-db.internal.example.com"

// Addresses of the laboratory. All private networks have the same numbers, as those of different people do.
var (
	cloudAddr = netip.MustParseAddr("203.0.113.10")
	cloudDNS  = netip.MustParseAddr("203.0.113.53")
	cloudSink = netip.MustParsePrefix("0.0.0.0/0")

	laptopAddr = netip.MustParsePrefix("192.168.1.2/24")
	officeSide = netip.MustParsePrefix("10.0.1.2/24")
	officeDNS  = netip.MustParseAddr("10.0.1.53")
	officeEcho = netip.MustParseAddr("10.0.1.7")  // echo on port 7, TCP and UDP; sums of what it gets on 6
	officeWeb  = netip.MustParseAddr("10.0.1.80") // HTTP/3

	stagingOf = map[string]netip.Addr{"a": netip.MustParseAddr("10.0.1.50"), "b": netip.MustParseAddr("10.0.1.60")}
	homeOf    = map[string]netip.Addr{"a": netip.MustParseAddr("198.51.100.1"), "b": netip.MustParseAddr("198.51.100.2")}
)

// laptop is a user's machine with a private network behind it and a bad one before it.
type laptop struct {
	*machine
	office *machine        // the private network: DNS, staging-db, echo
	dns    *testdns.Server // of the office
	link   *impair.Link    // to the cloud, by the NAT of the user's home
}

// lab is the laboratory.
//
//	 cloud 203.0.113.10                                          laptop a 192.168.1.2        office of a
//	┌────────────────────┐ tun        Link, NAT 198.51.100.1  tun ┌─────────────┐ veth ┌──────────────────────────┐
//	│ weir serve, run    │─────────────────────────────────────── │ weir connect│──────│ 10.0.1.53 DNS            │
//	│ 203.0.113.53 DNS   │                                        └─────────────┘      │ 10.0.1.50 staging-db     │
//	│                    │ tun        Link, NAT 198.51.100.2  tun ┌─────────────┐      └──────────────────────────┘
//	│                    │─────────────────────────────────────── │ laptop b    │────── office of b: 10.0.1.60 ...
//	└────────────────────┘ tun
//	          └── everything else: no way out, but each packet is seen
type lab struct {
	cloud   *machine
	laptops map[string]*laptop
	dns     *testdns.Server // of the cloud, which does not know staging-db

	mu     sync.Mutex
	strays []string // packets that left the cloud for anywhere but the laptops' homes
}

// newLab builds a laboratory with the laptops of these names.
func newLab(t *testing.T, laptops ...string) *lab {
	t.Helper()
	if f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skipf("the laboratory needs TUN devices: %v", err)
	} else {
		f.Close()
	}
	l := &lab{laptops: map[string]*laptop{}}
	l.cloud = newMachine(t, "cloud", "nameserver "+cloudDNS.String()+"\noptions timeout:1 attempts:1\n", "")
	l.cloud.address(t, cloudAddr, cloudDNS)
	l.dns = l.cloud.serveDNS(t, cloudDNS, testdns.Zone{"edge.example. A": {"edge.example. 60 A " + cloudAddr.String()}})
	for i, name := range laptops {
		l.addLaptop(t, name, uint64(i))
	}
	sink := l.cloud.tun(t, "wan", []netip.Prefix{cloudSink})
	t.Cleanup(func() { sink.Close() })
	go l.watchStrays(sink)
	return l
}

func (l *lab) addLaptop(t *testing.T, name string, seed uint64) {
	t.Helper()
	p := &laptop{machine: newMachine(t, "laptop "+name, "nameserver "+officeDNS.String()+"\noptions timeout:1\n", cloudAddr.String()+" edge.example\n")}
	p.office = newMachine(t, "office "+name, "nameserver "+officeDNS.String()+"\n", "")
	cable(t, p.machine, "corp0", officeSide, p.office, "eth0", netip.PrefixFrom(stagingOf[name], 24))
	p.office.address(t, officeDNS, officeEcho, officeWeb)
	p.dns = p.office.serveDNS(t, officeDNS, testdns.Zone{
		staging + ". A": {staging + ". 60 A " + stagingOf[name].String()}, staging + ". AAAA": {},
		"edge.example. A":                          {"edge.example. 60 A " + cloudAddr.String()},
		"h3.internal.example.com. A":               {"h3.internal.example.com. 60 A " + officeWeb.String()},
		"h3.internal.example.com. AAAA":            {},
		"echo.internal.example.com. A":             {"echo.internal.example.com. 60 A " + officeEcho.String()},
		"who.internal.example.com. TXT":            {`who.internal.example.com. 60 TXT "office ` + name + `"`},
		"_db._tcp." + staging + ". SRV":            {"_db._tcp." + staging + ". 60 SRV 0 0 5432 " + staging + "."},
		dnsReverse(stagingOf[name]) + " PTR":       {dnsReverse(stagingOf[name]) + " 60 PTR " + staging + "."},
		"metadata.internal.example.com. A":         {"metadata.internal.example.com. 60 A 169.254.169.254"},
		"loopback.internal.example.com. A":         {"loopback.internal.example.com. 60 A 127.0.0.1"},
		"loopback.internal.example.com. AAAA":      {},
		"echo.internal.example.com. AAAA":          {},
		"nobody-there.internal.example.com. A":     {"nobody-there.internal.example.com. 60 A 10.0.1.99"},
		"nothing-there.internal.example.com. A":    {"nothing-there.internal.example.com. 60 A " + officeEcho.String()},
		"metadata.internal.example.com. AAAA":      {},
		"nothing-there.internal.example.com. AAAA": {},
	})
	echo(t, p.office, netip.AddrPortFrom(officeEcho, 7))
	p.office.listen(t, sumAt, sumServer)

	inside := p.tun(t, "wan", []netip.Prefix{cloudSink}, laptopAddr)
	outside := l.cloud.tun(t, "home-"+name, prefixes([]netip.Addr{homeOf[name]}), netip.PrefixFrom(cloudAddr, 32))
	p.link = impair.New(impair.Config{A: inside, B: outside, Outside: homeOf[name], Seed: seed})
	t.Cleanup(func() { p.link.Close() })
	l.laptops[name] = p
}

func dnsReverse(a netip.Addr) string {
	name, err := dns.ReverseAddr(a.String())
	if err != nil {
		panic(err)
	}
	return name
}

// serveDNS answers from the zone on port 53.
func (m *machine) serveDNS(t *testing.T, at netip.Addr, z testdns.Zone) *testdns.Server {
	t.Helper()
	var s *testdns.Server
	m.do(t, func() error {
		s, _ = testdns.Serve(t, at.String(), 53, z.Answers())
		return nil
	})
	return s
}

// echo sends back what comes, over TCP and by the datagram.
func echo(t *testing.T, m *machine, at netip.AddrPort) {
	m.listen(t, at, func(c net.Conn) {
		defer c.Close()
		io.Copy(c, c)
	})
	pc := m.listenPacket(t, at)
	go func() {
		b := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			pc.WriteToUDPAddrPort(b[:n], from)
		}
	}()
}

// watchStrays notes each packet that would leave the cloud for the rest of the world.
func (l *lab) watchStrays(sink io.Reader) {
	b := make([]byte, 65535)
	for {
		n, err := sink.Read(b)
		if err != nil {
			return
		}
		if n >= 20 && b[0]>>4 == 4 {
			l.mu.Lock()
			l.strays = append(l.strays, fmt.Sprintf("protocol %d to %s", b[9], netip.AddrFrom4([4]byte(b[16:20]))))
			l.mu.Unlock()
		}
	}
}

// strayed lists what has left the cloud by another way than the tunnel since it was last asked.
func (l *lab) strayed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.Clone(l.strays)
	l.strays = nil
	return list
}
