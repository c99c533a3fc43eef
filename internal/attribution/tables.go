package attribution

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// maxTable is how much of one table under /proc/PID/net is read, in octets.
const maxTable = 4 << 20

// readTables looks for the flow's socket in the tables of the network namespace of process pid. A dual-stack socket
// stands in the IPv6 table with an IPv4-mapped address, so both are read.
func readTables(pid int, t tuple) (uint32, bool) {
	best, inode := 0, uint32(0)
	for _, suffix := range []string{"", "6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s%s", pid, t.network, suffix))
		if err != nil {
			continue
		}
		if score, found := searchTable(io.LimitReader(f, maxTable), t); score > best {
			best, inode = score, found
		}
		f.Close()
	}
	return inode, best > 0
}

// searchTable returns the inode of the socket in the table that fits the flow best, and how well it does: see fit.
func searchTable(r io.Reader, t tuple) (best int, inode uint32) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		local, ok1 := hexEndpoint(fields[1])
		remote, ok2 := hexEndpoint(fields[2])
		n, err := strconv.ParseUint(fields[9], 10, 32)
		if !ok1 || !ok2 || err != nil || n == 0 {
			continue
		}
		if score := fit(t, local, remote); score > best {
			best, inode = score, uint32(n)
		}
	}
	return best, inode
}

// fit scores a socket: 3 when it is the flow's own, for UDP also 2 when it is not connected and bound to the flow's
// source, 1 when it is not connected and bound to any address; 0 when it cannot have sent the flow.
func fit(t tuple, local, remote netip.AddrPort) int {
	switch {
	case local.Port() != t.local.Port():
		return 0
	case local == t.local && remote == t.remote:
		return 3
	case t.network != "udp" || remote.Port() != 0 || !remote.Addr().IsUnspecified():
		return 0
	case local == t.local:
		return 2
	case local.Addr().IsUnspecified():
		return 1
	}
	return 0
}

// hexEndpoint reads the kernel's ADDRESS:PORT, where an address is one or four 32-bit words in the order of the machine.
func hexEndpoint(s string) (netip.AddrPort, bool) {
	address, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(address)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}
