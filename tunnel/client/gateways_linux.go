package client

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
)

// containerGateways returns the gateways of the default routes when this is the inside of a container: there they are the
// container's host. On a host itself the bridges are interfaces of its own.
func containerGateways() ([]netip.Addr, error) {
	if !inContainer() {
		return nil, nil
	}
	var all []netip.Addr
	for path, parse := range map[string]func(string) (netip.Addr, bool){"/proc/net/route": gateway4, "/proc/net/ipv6_route": gateway6} {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without this family
		}
		if err != nil {
			return nil, fmt.Errorf("read routes: %w", err)
		}
		list, err := gateways(f, parse)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

// inContainer goes by the files that podman, docker and their kin leave inside.
func inContainer() bool {
	for _, path := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

func gateways(r io.Reader, parse func(string) (netip.Addr, bool)) ([]netip.Addr, error) {
	var list []netip.Addr
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if a, ok := parse(lines.Text()); ok {
			list = append(list, a)
		}
	}
	return list, lines.Err()
}

// gateway4 reads a line of /proc/net/route: the interface, then destination and gateway as numbers in the order of the machine.
func gateway4(line string) (netip.Addr, bool) {
	f := strings.Fields(line)
	if len(f) < 3 || f[1] != "00000000" {
		return netip.Addr{}, false
	}
	b, err := hex.DecodeString(f[2])
	if err != nil || len(b) != 4 {
		return netip.Addr{}, false
	}
	var a [4]byte
	binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
	addr := netip.AddrFrom4(a)
	return addr, !addr.IsUnspecified()
}

// gateway6 reads a line of /proc/net/ipv6_route: destination, its prefix length, source, its length, the next hop.
func gateway6(line string) (netip.Addr, bool) {
	f := strings.Fields(line)
	if len(f) < 5 || strings.Trim(f[0], "0") != "" || f[1] != "00" {
		return netip.Addr{}, false
	}
	b, err := hex.DecodeString(f[4])
	if err != nil || len(b) != 16 {
		return netip.Addr{}, false
	}
	addr := netip.AddrFrom16([16]byte(b))
	return addr, !addr.IsUnspecified()
}
