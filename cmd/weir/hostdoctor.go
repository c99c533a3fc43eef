//go:build linux && !client

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tproxy/rules"
)

// probeHostName is argv[0] of the process that asks the kernel for what the host door needs.
const probeHostName = "weir-probe-host-door"

// probeHostDoor finds out whether weir tproxy up could stand before containers here: by asking the kernel in a namespace of
// its own, and then, if this weir has the privilege, by looking for what would be in its way on this host.
func probeHostDoor() finding {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{probeHostName}
	_, err := inNamespaces(cmd)
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe) && pe.Op == "fork/exec": // it was not even asked
		return finding{Status: "skip", Summary: "no namespaces to try weir tproxy up in: " + err.Error()}
	case err != nil:
		return finding{Status: "warn", Summary: "no door before containers: " + err.Error(),
			Fix: "sudo modprobe -a nf_tables nft_tproxy nf_tproxy_ipv4 nf_tproxy_ipv6 nfnetlink_log (only weir tproxy up needs it)"}
	}
	links, err := rules.HostLinks()
	if errors.Is(err, rules.ErrPrivilege) || err == nil && !mayChangeNetwork() {
		return finding{Status: "skip", Summary: "the kernel has what weir tproxy up needs; it needs root besides, to stand before the containers of this host"}
	}
	if err != nil {
		return finding{Status: "warn", Summary: "no door before containers: " + err.Error()}
	}
	for _, link := range links {
		if hostIsDown(link) {
			return finding{Status: "warn", Summary: fmt.Sprintf("a weir tproxy up on %s was killed: its containers have no way out", link),
				Fix: "sudo weir tproxy up --bridge " + link + ", or sudo weir tproxy down"}
		}
	}
	if chains, err := rules.InputDrops(); err == nil && len(chains) > 0 {
		return finding{Status: "warn", Summary: "what containers send to weir tproxy up would be dropped by nftables chain " + strings.Join(chains, ", "),
			Fix: "have it accept the mark that weir tproxy up names"}
	}
	return finding{Status: "pass", Summary: "weir tproxy up can stand before containers here"}
}

// mayChangeNetwork reports whether this process has CAP_NET_ADMIN.
func mayChangeNetwork() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	return unix.Capget(&header, &sets[0]) == nil && sets[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// probeHostMain is that process.
func probeHostMain() {
	if err := rules.ProbeHost(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
