//go:build linux

package gauntlet

import (
	"slices"
	"strings"
)

// Bypass is a way round another sandbox, proxy or stack that was reported in public.
type Bypass struct {
	// Where it was reported, as a row's Source says it.
	Where string
	What  string
}

// Bypasses are those that have a row here; see [Bypass.Rows]. What was reported and has none is in [Absent].
func Bypasses() []Bypass {
	return slices.Concat(kernelBypasses(), reachBypasses(), nameBypasses(), handshakeBypasses(), dnsBypasses(), packetBypasses(), logBypasses())
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

func kernelBypasses() []Bypass {
	return []Bypass{
		{"CVE-2020-15257", "containerd: an abstract UNIX socket in a shared network namespace"},
		{"bubblewrap #330", "abstract sockets are in reach unless the network is the sandbox's own"},
		{"landrun 0.1.17", "sockets with a path were not covered"},
		{"CVE-2017-5226", "bubblewrap: typing into the terminal with TIOCSTI"},
		{"CVE-2019-10063", "flatpak: a filter of TIOCSTI that compared too many bits"},
		{"CVE-2019-5736", "runc: the binary was overwritten through /proc/self/exe"},
		{"CVE-2024-21626", "runc: a descriptor of the host's working directory leaked"},
		{"CVE-2021-30465", "runc: a symbolic link in place of a mount point"},
		{"CVE-2018-15664", "docker: a symbolic link led out of the tree"},
		{"CVE-2015-2925", "a directory that was moved out of a bind mount had a parent again"},
		{"CVE-2022-0492", "release_agent of a cgroup ran programs as root"},
		{"CVE-2025-32955", "harden-runner: the docker socket gave root"},
		{"bestax #487", "harden-runner: blocking became auditing without a word"},
		{"sandbox-runtime README (ia32)", "calls of 32-bit programs went past the filter"},
		{"sandbox-runtime README", "sockets and descriptors that were inherited were not covered"},
		{"httptap", "daemons outlived the sandbox"},
	}
}

func reachBypasses() []Bypass {
	return []Bypass{
		{"CVE-2021-4024", "podman: the API of the gateway was open to everybody"},
		{"gvisor-tap-vsock #714", "guests could take down and make port forwards on the gateway"},
		{"rootlesskit #612", "the host's loopback was reachable in spite of --disable-host-loopback"},
		{"slirp4netns(1)", "the host's loopback is reachable by 10.0.2.2 by default"},
		{"ToolHive #4395", "the host was reachable by its gateway in spite of isolation"},
		{"podman #24045", "published ports were offered to the whole network"},
		{"Docker MCP Gateway (shared network)", "servers of one host share a network, and reach each other's proxies"},
		{"Docker MCP Gateway (--block-network)", "a server that lists no host was not held at all"},
		{"superserve PR #234", "a list of allowed hosts without a rule that denies allowed everything"},
		{"sbx #72", "hidden defaults allowed hosts that nobody had listed"},
		{"Daytona #3945", "the same"},
		{"sbx #91", "one policy for all sandboxes: what one may, each may"},
		{"ToolHive #1008", "the server's own policy was not applied"},
		{"ToolHive #1597", "what the installation needs had to stay allowed for ever"},
		{"claude-code #37782", "programs that know nothing of proxies went round the proxy, or nowhere"},
		{"claude-agent-sdk-typescript #396", "the same of Node's fetch"},
		{"OpenShell PR #269", "the same"},
		{"lastlight PR #64", "the same"},
		{"Daytona #4463", "the same"},
		{"boundary #189", "the same of npx"},
		{"iron-proxy README", "a proxy that programs find by DNS is passed by dialling an address"},
		{"claude-code #87381", "CONNECT through a relay inside was not judged; nor is what a proxy behind an allowed name relays"},
		{"greywall (TUN fallback)", "without a TUN device it fell back to proxy variables"},
		{"nono #756", "UDP was not held"},
		{"nono #909", "echo requests were not held"},
		{"nono PR #1631", "a rule for a port was one for every host"},
		{"boundary (networking_host.go)", "ICMP and UDP were forwarded for the whole subnet"},
		{"gh-aw-firewall #245", "IPv6 was not filtered"},
		{"httpjail (table ip)", "the same"},
		{"GHSA-cpmj-h4f6-r6pq", "harden-runner: sendto, sendmsg and sendmmsg went unseen"},
		{"srt #65", "private networks could not be held apart from the internet"},
		{"iron-proxy upstream_deny_cidrs", "the same"},
		{"smokescreen #280", "tunnels had no limit"},
		{"smokescreen #284", "nor had their rate"},
	}
}

func nameBypasses() []Bypass {
	return []Bypass{
		{"claude-code #77045", "the list of allowed domains was not enforced"},
		{"claude-code #78608", "the same"},
		{"claude-code #88553", "the same, now and then"},
		{"claude-code #40213", "plain HTTP was not filtered"},
		{"microsandbox PR #694", "the server name in TLS was believed"},
		{"microsandbox #1361", "a rule for a name opened addresses that had nothing to do with it"},
		{"microsandbox PR #1365", "the same: the decision was put off, the connection was not"},
		{"microsandbox #605", "names that share an address shared the rule"},
		{"microsandbox #633", "the same, until the server name was read"},
		{"microsandbox #782", "a denied name passed when it was only claimed"},
		{"Cilium #31803", "an allowed name's address opened every other name there"},
		{"inspect_k8s_sandbox PR #208", "the same"},
		{"leash v1", "the same: the kernel compared addresses only"},
		{"klangk PR #2248", "an allowed name's address was open on every port, and each lookup added a rule"},
		{"ToolHive #1032", "the protocol in a rule meant nothing"},
		{"aimee PR #2531", "a wildcard without a dot in front matches other domains"},
		{"net4people #417", "with ECH the server name is that of somebody else"},
		{"harden-runner 2.10.3", "names were compared with their case"},
		{"CVE-2022-24825", "smokescreen: a dot at the end of a denied name"},
		{"GHSA-gcj7-j438-hjj2", "the same"},
		{"CVE-2022-29188", "smokescreen: square brackets around a denied name"},
		{"GHSA-qwrf-gfpj-qvj6", "the same"},
		{"OpenShell #1498", "NUL in the name of a SOCKS request"},
		{"obscura #816", "the metadata server by its 6to4 address"},
		{"campfire #225", "private addresses by the local NAT64 prefix"},
		{"private_address_check #12", "private addresses inside IPv6, in five ways"},
		{"smokescreen #277", "NAT64, 6to4 and Teredo"},
		{"smokescreen #282", "the proxy's own addresses"},
		{"gestalt PR #1639", "a public name with a private address (DNS rebinding)"},
		{"meow-ios PR #231", "answers of another server were taken for true"},
	}
}

func handshakeBypasses() []Bypass {
	return []Bypass{
		{"gobetween #342", "a hello in several segments was not read"},
		{"caddy-l4 #346", "the same"},
		{"haproxy #3148", "the same"},
		{"DPYProxy #2", "a hello split over TLS records"},
		{"curl-impersonate #271", "the same, as a feature"},
		{"CVE-2011-0411", "postfix: what was said before TLS counted inside"},
		{"E2B", "the default resolver was always allowed, and QUIC had no name"},
		{"AdGuard CoreLibs #1554", "QUIC that could not be decoded passed; frames in disorder were not decoded"},
		{"nDPI #1195", "a QUIC hello over several packets had no name"},
		{"sing-box #1724", "the same"},
		{"nDPI #1489", "a hello in several CRYPTO frames had no name"},
		{"ops-drafts #358", "the same, in the text that told how to read it"},
		{"suricata #12591", "the same"},
		{"v2ray #2335", "only packet number 0 was read"},
		{"v2ray #2886", "cut CRYPTO frames brought the reader down"},
	}
}

func dnsBypasses() []Bypass {
	return []Bypass{
		{"sandbox-runtime #88", "data left in the labels of questions"},
		{"sandbox-runtime #3", "the same"},
		{"OpenShell #1169", "the same"},
		{"OpenShell docs", "the same, below a wildcard that is allowed"},
		{"microsandbox #675", "the same"},
		{"CubeSandbox PR #1183", "the same"},
		{"httpjail #53", "the same"},
		{"gh-aw-firewall docs", "the same, through resolvers that are trusted"},
		{"gh-aw-firewall #9", "DNS to any server"},
		{"gh-aw-firewall #68", "the same"},
		{"dust PR #25991", "E2B: DNS to a server that was allowed unasked"},
		{"GHSA-g699-3x6g-wm3g", "harden-runner: DNS over TCP"},
		{"vm0 #21263", "DNS over TCP went past the rules"},
		{"microsandbox PR #585", "DNS over TCP, TLS and QUIC, and multicast DNS went past the rules"},
		{"GHSA-46g3-37rh-v698", "harden-runner: DNS over HTTPS through a resolver that was allowed"},
		{"sandy #154", "DNS over HTTPS where everything public is allowed"},
		{"microsandbox docs", "the same; rebinding"},
	}
}

func packetBypasses() []Bypass {
	return []Bypass{
		{"bullfrog", "packets made by hand went past"},
		{"gvisor-tap-vsock SetSpoofing", "any source address was taken"},
		{"Landlock and MPTCP", "rules for TCP did not hold multipath TCP"},
		{"CVE-2020-1983", "libslirp: reassembly of fragments used freed memory"},
		{"CVE-2019-15890", "the same"},
		{"CVE-2019-14378", "libslirp: reassembly of large fragments wrote beyond its memory"},
		{"CVE-2020-10756", "libslirp: an ICMPv6 length beyond the end of the packet was believed"},
		{"CVE-2020-29129", "libslirp: short frames were read beyond their end"},
		{"CVE-2020-29130", "the same"},
		{"CVE-2026-9539", "libslirp: urgent data"},
	}
}

func logBypasses() []Bypass {
	return []Bypass{
		{"OSSEC CVE-2020-8445", "escape sequences in a log ran on the terminal of its reader"},
		{"navikt/cplt #221", "the same, by the name of a host"},
		{"buildcage PR #326", "quotes and line breaks in a server name made false lines in the log"},
		{"kubestellar #20857", "line breaks in names of the user made false lines in the log"},
	}
}
