//go:build linux

package sandbox

import (
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What CMD may ask of the kernel with profile "engine": what other programs may, and what container engines live on:
// mounts, namespaces, the settings of a network.

// engineCalls are taken off the lists of refused calls.
var engineCalls = []string{
	"mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount",
	"fspick", "mount_setattr", "setns", "sethostname", "setdomainname", "clone3",
}

// engineMissing are refused as if the kernel had them not, which runtimes go round: with the user's uid goes the right to
// the user's keys, whatever the namespace.
var engineMissing = []string{"keyctl", "add_key", "request_key"}

// engineNetlink are the NETLINK protocols that programs use to set up a network of their own: links and routes, sockets,
// nftables, device news, and what is numbered at run time (WireGuard, ethtool).
var engineNetlink = []uint32{
	unix.NETLINK_ROUTE, unix.NETLINK_SOCK_DIAG, unix.NETLINK_NETFILTER, unix.NETLINK_KOBJECT_UEVENT, unix.NETLINK_GENERIC,
}

func filterEngineSyscalls() error {
	refused, missing := engineRefusals()
	return loadFilters(refused, missing, engineCallFilters())
}

// engineRefusals are refusedCalls and missingCalls of this profile.
func engineRefusals() (refused, missing []string) {
	without := func(list []string, out ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(name string) bool { return slices.Contains(out, name) })
	}
	refused = without(without(refusedCalls, engineCalls...), engineMissing...)
	return refused, append(without(missingCalls, engineCalls...), engineMissing...)
}

// engineCallFilters are callFilters without those for namespaces, and with more sockets.
func engineCallFilters() []callFilter {
	return append(slices.DeleteFunc(callFilters(), func(f callFilter) bool {
		return f.call == unix.SYS_CLONE || f.call == unix.SYS_UNSHARE || f.call == unix.SYS_SOCKET
	}), callFilter{unix.SYS_SOCKET, judgeEngineSocket()})
}

// judgeEngineSocket allows what judgeSocket does, raw and packet sockets, and more of NETLINK. What root inside sends by
// a raw socket comes to the same TAP.
func judgeEngineSocket() []bpf.Instruction {
	equal := func(v uint32) bpf.JumpIf { return bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipFalse: 1} }
	netlink := oneOf(offArg2, engineNetlink, unix.EPROTONOSUPPORT)
	prog := slices.Concat([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offArg0, Size: 4},
		equal(unix.AF_PACKET), allow,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_NETLINK, SkipFalse: uint8(len(netlink))},
	}, netlink, []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_INET6, SkipFalse: 4},
		bpf.LoadAbsolute{Off: offArg1, Size: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: socketTypeMask},
		equal(unix.SOCK_RAW), allow,
	})
	return append(prog, judgeSocket()...)
}
