//go:build linux

package gauntlet

import "strings"

// Bypass is a way round another sandbox, proxy or stack that was reported in public.
type Bypass struct {
	// Where it was reported, as a row's Source says it.
	Where string
	What  string
}

// Bypasses are those that have a row here; see [Bypass.Rows].
func Bypasses() []Bypass {
	return []Bypass{
		{"CVE-2021-4024", "podman: the API of the gateway was open to everybody"},
		{"gvisor-tap-vsock #714", "guests could take down and make port forwards on the gateway"},
		{"rootlesskit #612", "the host's loopback was reachable in spite of --disable-host-loopback"},
		{"slirp4netns(1)", "the host's loopback is reachable by 10.0.2.2 by default"},
		{"CVE-2020-1983", "libslirp: reassembly of fragments used freed memory"},
		{"CVE-2020-15257", "containerd: an abstract UNIX socket in a shared network namespace"},
		{"bubblewrap #330", "abstract sockets are in reach unless the network is the sandbox's own"},
		{"CVE-2017-5226", "bubblewrap: typing into the terminal with TIOCSTI"},
		{"CVE-2019-10063", "flatpak: a filter of TIOCSTI that compared too many bits"},
		{"CVE-2019-5736", "runc: the binary was overwritten through /proc/self/exe"},
		{"CVE-2024-21626", "runc: a descriptor of the host's working directory leaked"},
		{"CVE-2021-30465", "runc: a symbolic link in place of a mount point"},
		{"CVE-2018-15664", "docker: a symbolic link led out of the tree"},
		{"CVE-2015-2925", "a directory that was moved out of a bind mount had a parent again"},
		{"CVE-2022-0492", "release_agent of a cgroup ran programs as root"},
		{"CVE-2025-32955", "harden-runner: the docker socket gave root"},
		{"GHSA-cpmj-h4f6-r6pq", "harden-runner: sendto, sendmsg and sendmmsg went unseen"},
		{"harden-runner 2.10.3", "names were compared with their case"},
		{"bestax #487", "harden-runner: blocking became auditing without a word"},
		{"sandbox-runtime README (ia32)", "calls of 32-bit programs went past the filter"},
		{"sandbox-runtime README", "sockets and descriptors that were inherited were not covered"},
		{"claude-code #40213", "plain HTTP was not filtered"},
		{"claude-code #87381", "a proxy behind an allowed name relayed anywhere"},
		{"claude-code #37782", "programs that know nothing of proxies went round the proxy, or nowhere"},
		{"claude-agent-sdk-typescript #396", "the same of Node's fetch"},
		{"greywall (TUN fallback)", "without a TUN device it fell back to proxy variables"},
		{"nono #756", "UDP was not held"},
		{"nono #909", "echo requests were not held"},
		{"nono PR #1631", "a rule for a port was one for every host"},
		{"boundary (networking_host.go)", "ICMP and UDP were forwarded for the whole subnet"},
		{"gh-aw-firewall #245", "IPv6 was not filtered"},
		{"bullfrog", "packets made by hand went past"},
		{"httptap", "daemons outlived the sandbox"},
		{"podman #24045", "published ports were offered to the whole network"},
		{"microsandbox PR #694", "the server name in TLS was believed"},
		{"microsandbox #605", "names that share an address shared the rule"},
		{"microsandbox #782", "a denied name passed when it was only claimed"},
		{"Cilium #31803", "an allowed name's address opened every other name there"},
		{"obscura #816", "the metadata server by its 6to4 address"},
		{"campfire #225", "private addresses by the local NAT64 prefix"},
		{"smokescreen #277", "NAT64, 6to4 and Teredo"},
		{"smokescreen #282", "the proxy's own addresses"},
		{"CVE-2022-24825", "smokescreen: a dot at the end of a denied name"},
		{"OpenShell #1498", "NUL in the name of a SOCKS request"},
		{"DPYProxy #2", "a hello split over TLS records"},
		{"CVE-2022-29188", "smokescreen: square brackets around a denied name"},
		{"GHSA-46g3-37rh-v698", "harden-runner: DNS over HTTPS through a resolver that was allowed"},
		{"GHSA-g699-3x6g-wm3g", "harden-runner: DNS over TCP"},
		{"sandbox-runtime #88", "data left in the labels of questions"},
		{"OpenShell #1169", "the same"},
		{"microsandbox #675", "the same"},
		{"vm0 #21263", "DNS over TCP went past the rules"},
		{"gh-aw-firewall #9", "DNS to any server"},
		{"E2B", "the default resolver was always allowed, and QUIC had no name"},
		{"AdGuard CoreLibs #1554", "QUIC that could not be decoded passed"},
		{"OSSEC CVE-2020-8445", "escape sequences in a log ran on the terminal of its reader"},
		{"buildcage PR #326", "quotes and line breaks in a server name made false lines in the log"},
	}
}

// Rows are the IDs of the rows that try it.
func (b Bypass) Rows() (ids []string) {
	for _, r := range Rows() {
		if strings.Contains(r.Source, b.Where) {
			ids = append(ids, r.ID)
		}
	}
	return ids
}
