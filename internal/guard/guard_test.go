package guard

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		addr string
		want Class
	}{
		{"8.8.8.8", Public}, {"2606:4700:4700::1111", Public},
		{"192.0.2.1", Public}, {"198.51.100.1", Public}, {"203.0.113.1", Public}, {"2001:db8::1", Public}, // documentation
		{"10.0.0.0", Private}, {"10.255.255.255", Private}, {"9.255.255.255", Public}, {"11.0.0.0", Public},
		{"172.16.0.0", Private}, {"172.31.255.255", Private}, {"172.15.255.255", Public}, {"172.32.0.0", Public},
		{"192.168.0.1", Private}, {"192.167.255.255", Public}, {"192.169.0.0", Public},
		{"100.64.0.0", Private}, {"100.127.255.255", Private}, {"100.63.255.255", Public}, {"100.128.0.0", Public},
		{"192.0.0.1", Private}, {"192.0.1.0", Public},
		{"198.18.0.0", Private}, {"198.19.255.255", Private}, {"198.17.255.255", Public}, {"198.20.0.0", Public},
		{"fc00::1", Private}, {"fdff::1", Private}, {"fec0::1", Private}, {"fbff::1", Public},
		{"240.0.0.1", Reserved}, {"255.255.255.254", Reserved}, {"100::1", Reserved},
		{"127.0.0.1", Loopback}, {"127.255.255.255", Loopback}, {"::1", Loopback}, {"126.255.255.255", Public}, {"128.0.0.0", Public},
		{"0.0.0.0", Unspecified}, {"0.1.2.3", Unspecified}, {"::", Unspecified}, {"1.0.0.0", Public},
		{"169.254.0.1", LinkLocal}, {"169.253.255.255", Public}, {"169.255.0.0", Public}, {"fe80::1", LinkLocal}, {"fe80::1%eth0", LinkLocal}, {"febf::1", LinkLocal},
		{"224.0.0.1", Multicast}, {"239.255.255.255", Multicast}, {"ff02::1", Multicast},
		{"255.255.255.255", Broadcast},
		{"169.254.169.254", Metadata}, {"169.254.170.2", Metadata}, {"100.100.100.200", Metadata}, {"192.0.0.192", Metadata},
		{"168.63.129.16", Metadata}, {"fd00:ec2::254", Metadata}, {"fd00:ec2::23", Metadata}, {"fd20:ce::254", Metadata}, {"fd00:42::42", Metadata},
		{"::ffff:127.0.0.1", Loopback}, {"::ffff:8.8.8.8", Public},
	} {
		if got := Classify(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("Classify(%s) = %s, want %s", c.addr, got, c.want)
		}
	}
	if got := Classify(netip.Addr{}); got != Unspecified {
		t.Errorf("Classify of the zero Addr = %s", got)
	}
}

func TestRange(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{"127.9.9.9", "127.0.0.0/8"}, {"169.254.3.3", "169.254.0.0/16"}, {"169.254.169.254", "169.254.169.254/32"},
		{"10.1.2.3", "10.0.0.0/8"}, {"::1", "::1/128"}, {"fe80::9", "fe80::/10"}, {"fd00:ec2::1", "fd00:ec2::1/128"},
		{"::ffff:10.1.2.3", "10.0.0.0/8"}, {"8.8.8.8", ""}, {"240.0.0.1", ""},
	} {
		p, ok := Range(netip.MustParseAddr(c.addr))
		if ok != (c.want != "") || ok && p.String() != c.want {
			t.Errorf("Range(%s) = %s, %v, want %q", c.addr, p, ok, c.want)
		}
	}
}

// embeddings are all the ways in which an IPv4 address can hide in an IPv6 address.
func embeddings(v4 netip.Addr) map[string]netip.Addr {
	b := v4.As4()
	at := func(base string, put func(*[16]byte)) netip.Addr {
		a := netip.MustParseAddr(base).As16()
		put(&a)
		return netip.AddrFrom16(a)
	}
	low := func(a *[16]byte) { copy(a[12:], b[:]) }
	return map[string]netip.Addr{
		"mapped":           at("::ffff:0:0", low),
		"compatible":       at("::", low),
		"translated":       at("::ffff:0:0:0", low),
		"NAT64":            at("64:ff9b::", low),
		"NAT64 local /96":  at("64:ff9b:1::", low),
		"NAT64 local /64":  at("64:ff9b:1::", func(a *[16]byte) { copy(a[9:], b[:]) }),
		"NAT64 local /56":  at("64:ff9b:1::", func(a *[16]byte) { a[7] = b[0]; copy(a[9:], b[1:]) }),
		"NAT64 local /48":  at("64:ff9b:1::", func(a *[16]byte) { a[6], a[7] = b[0], b[1]; copy(a[9:], b[2:]) }),
		"NAT64 suffix set": at("64:ff9b:1::ffff", func(a *[16]byte) { a[6], a[7] = b[0], b[1]; copy(a[9:], b[2:]) }),
		"6to4":             at("2002::1", func(a *[16]byte) { copy(a[2:], b[:]) }),
		"Teredo client":    at("2001:0:808:808::", func(a *[16]byte) { binary.BigEndian.PutUint32(a[12:], ^binary.BigEndian.Uint32(b[:])) }),
		"Teredo server":    at("2001::f7f7:f7f7", func(a *[16]byte) { copy(a[4:], b[:]) }),
		"ISATAP":           at("2001:db8::5efe:0:0", low),
		"ISATAP global":    at("2001:db8::200:5efe:0:0", low),
	}
}

// TestEmbeddedIsDenied: what is closed in IPv4 is closed in each of its disguises.
func TestEmbeddedIsDenied(t *testing.T) {
	closed := []string{
		"0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16",
		"198.18.0.0/15", "224.0.0.0/4", "255.255.255.255/32", "169.254.169.254/32", "100.100.100.200/32", "168.63.129.16/32",
	}
	for _, c := range closed {
		p := netip.MustParsePrefix(c)
		for _, v4 := range []netip.Addr{p.Addr(), last(p), middle(p)} {
			for form, a := range embeddings(v4) {
				if !isClosed(a) {
					t.Errorf("%s of %s is open: %s, inside %v", form, v4, a, Embedded(a))
				}
			}
		}
	}
	for _, v4 := range []string{"8.8.8.8", "203.0.113.77", "93.184.216.34", "1.1.1.1"} {
		for form, a := range embeddings(netip.MustParseAddr(v4)) {
			if isClosed(a) && form != "NAT64 suffix set" { // there another reading may well be closed
				t.Errorf("%s of %s is closed: %s, inside %v", form, v4, a, Embedded(a))
			}
		}
	}
}

func isClosed(a netip.Addr) bool {
	is := func(a netip.Addr) bool { c := Classify(a); return c == Private || c.Guarded() }
	if is(a) {
		return true
	}
	for _, in := range Embedded(a) {
		if is(in) {
			return true
		}
	}
	return false
}

func last(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | uint32(uint64(1)<<(32-p.Bits())-1)
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func middle(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | uint32(uint64(1)<<(32-p.Bits())-1)&0x5a5a5a5a
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func TestEmbeddedOfOrdinary(t *testing.T) {
	for _, s := range []string{"8.8.8.8", "::", "::1", "2606:4700::1111", "fe80::1", "2001:4860:4860::8888", "2001:db8::5efe"} {
		if got := Embedded(netip.MustParseAddr(s)); len(got) != 0 {
			t.Errorf("Embedded(%s) = %v", s, got)
		}
	}
}

func FuzzEmbedded(f *testing.F) {
	for _, v4 := range []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "8.8.8.8", "0.0.0.0"} {
		for _, a := range embeddings(netip.MustParseAddr(v4)) {
			b := a.As16()
			f.Add(b[:])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		got := Embedded(a)
		if len(got) > MaxEmbedded {
			t.Fatalf("%s: %d addresses", a, len(got))
		}
		for _, in := range got {
			if !in.Is4() {
				t.Fatalf("%s: %s is not IPv4", a, in)
			}
		}
		if p, ok := Range(a); ok && !p.Contains(a.Unmap()) {
			t.Fatalf("Range(%s) = %s", a, p)
		}
		if a.Is4() {
			for form, e := range embeddings(a) {
				found := false
				for _, in := range Embedded(e) {
					found = found || in == a
				}
				// Readings in 0.0.0.0/8 give way, and :: and ::1 are themselves.
				if !found && a.As4()[0] != 0 {
					t.Fatalf("%s of %s: %s holds %v", form, a, e, Embedded(e))
				}
			}
		}
	})
}

func TestHost(t *testing.T) {
	now := time.Unix(0, 0)
	reads, fail := 0, false
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	h, err := newHost(func() ([]netip.Addr, error) {
		reads++
		if fail {
			return nil, errors.New("no netlink")
		}
		return addrs, nil
	}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	h.Addrs()
	if now = now.Add(HostRefresh - 1); h.Addrs()[0] != addrs[0] || reads != 1 {
		t.Fatalf("%d reads while fresh", reads)
	}
	addrs = []netip.Addr{netip.MustParseAddr("192.0.2.2")}
	if now = now.Add(1); h.Addrs()[0] != addrs[0] || reads != 2 {
		t.Fatalf("%d reads, %v when stale", reads, h.Addrs())
	}
	fail = true
	if now = now.Add(HostRefresh); len(h.Addrs()) != 1 || h.Failures() != 1 {
		t.Fatalf("after a failure: %v, %d failures", h.Addrs(), h.Failures())
	}
	if h.Addrs(); reads != 3 {
		t.Fatalf("a failure is tried again at once: %d reads", reads)
	}
	if _, err := NewHost(func() ([]netip.Addr, error) { return nil, errors.New("no netlink") }); err == nil {
		t.Fatal("NewHost without addresses succeeds")
	}
}

func TestHostAddrs(t *testing.T) {
	addrs, err := HostAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.IsLoopback() || a.Zone() != "" || a.Is4In6() {
			t.Errorf("HostAddrs has %s", a)
		}
	}
}

func TestBroadcast(t *testing.T) {
	for _, c := range []struct{ prefix, want string }{
		{"192.0.2.2/24", "192.0.2.255"}, {"10.1.2.3/8", "10.255.255.255"}, {"172.16.5.9/20", "172.16.15.255"},
		{"192.0.2.5/30", "192.0.2.7"}, {"192.0.2.4/31", ""}, {"192.0.2.4/32", ""}, {"2001:db8::1/64", ""},
	} {
		b, ok := broadcast(netip.MustParsePrefix(c.prefix))
		if ok != (c.want != "") || ok && b.String() != c.want {
			t.Errorf("broadcast(%s) = %v, %v; want %q", c.prefix, b, ok, c.want)
		}
	}
}
