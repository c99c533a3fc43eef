//go:build linux

package sandbox

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// TestEngineRefusals: the profile gives exactly its list back, and misspells nothing.
func TestEngineRefusals(t *testing.T) {
	refused, missing := engineRefusals()
	for _, name := range engineCalls {
		if !slices.Contains(refusedCalls, name) && !slices.Contains(missingCalls, name) {
			t.Errorf("%s is given back, but nobody refuses it", name)
		}
		if slices.Contains(refused, name) || slices.Contains(missing, name) {
			t.Errorf("%s is still refused", name)
		}
	}
	for _, name := range slices.Concat(refusedCalls, missingCalls) {
		if !slices.Contains(engineCalls, name) && !slices.Contains(refused, name) && !slices.Contains(missing, name) {
			t.Errorf("%s is refused to tools, but not to engines", name)
		}
	}
	for _, name := range []string{"ptrace", "bpf", "keyctl", "io_uring_setup", "open_by_handle_at", "kexec_load", "init_module"} {
		if !slices.Contains(refused, name) && !slices.Contains(missing, name) {
			t.Errorf("%s is not refused", name)
		}
	}
}

// TestEngineSockets runs the filter for socket(2) as the kernel would.
func TestEngineSockets(t *testing.T) {
	vm, err := bpf.NewVM(judgeEngineSocket())
	if err != nil {
		t.Fatal(err)
	}
	const allowed = unix.SECCOMP_RET_ALLOW
	refused := func(e unix.Errno) int { return unix.SECCOMP_RET_ERRNO | int(e) }
	for _, c := range []struct {
		name                   string
		family, kind, protocol uint32
		want                   int
	}{
		{"unix", unix.AF_UNIX, unix.SOCK_SEQPACKET, 0, allowed},
		{"tcp", unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, unix.IPPROTO_TCP, allowed},
		{"udp", unix.AF_INET6, unix.SOCK_DGRAM, 0, allowed},
		{"raw", unix.AF_INET, unix.SOCK_RAW | unix.SOCK_NONBLOCK, unix.IPPROTO_RAW, allowed},
		{"raw IPv6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, allowed},
		{"packet", unix.AF_PACKET, unix.SOCK_RAW, 0x300, allowed},
		{"route", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE, allowed},
		{"nftables", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER, allowed},
		{"audit", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT, refused(unix.EPROTONOSUPPORT)},
		{"xfrm", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_XFRM, refused(unix.EPROTONOSUPPORT)},
		{"sctp", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP, refused(unix.EPROTONOSUPPORT)},
		{"vsock", unix.AF_VSOCK, unix.SOCK_STREAM, 0, refused(unix.EAFNOSUPPORT)},
		{"alg", unix.AF_ALG, unix.SOCK_SEQPACKET, 0, refused(unix.EAFNOSUPPORT)},
		{"xdp", unix.AF_XDP, unix.SOCK_RAW, 0, refused(unix.EAFNOSUPPORT)},
		{"bluetooth", unix.AF_BLUETOOTH, unix.SOCK_RAW, 1, refused(unix.EAFNOSUPPORT)},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := make([]byte, 64) // struct seccomp_data; the machine here reads big-endian
			for off, v := range map[int]uint32{offArg0: c.family, offArg1: c.kind, offArg2: c.protocol} {
				binary.BigEndian.PutUint32(data[off:], v)
			}
			if got, err := vm.Run(data); err != nil || got != c.want {
				t.Errorf("got %#x, %v, want %#x", got, err, c.want)
			}
		})
	}
}
