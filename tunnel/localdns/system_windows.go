package localdns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/weir-dev/weir/internal/stub"
)

// bind has the resolver ask the system's library, and the nameservers of the adapters.
func (r *Resolver) bind() {
	if r.host.HostsPath == "" {
		r.host.HostsPath = filepath.Join(os.Getenv("SystemRoot"), "System32", "drivers", "etc", "hosts")
	}
	l := &library{lookup: net.DefaultResolver.LookupNetIP, servers: adapterServers, client: &r.host.Client}
	r.ask = l.exchange
}

// adapter is what one network adapter that is up brings to DNS.
type adapter struct {
	metric  uint32
	servers []netip.AddrPort
}

// adapterServers are the nameservers of each adapter, those of the preferred one first.
func adapterServers(context.Context, string) ([]stub.Conf, error) {
	first, err := adapters()
	if err != nil {
		return nil, err
	}
	var list []adapter
	for a := first; a != nil; a = a.Next {
		if a.OperStatus != windows.IfOperStatusUp {
			continue
		}
		one := adapter{metric: min(a.Ipv4Metric, a.Ipv6Metric)}
		for s := a.FirstDnsServerAddress; s != nil && len(one.servers) < stub.MaxServers; s = s.Next {
			if at, ok := serverAddress(&s.Address); ok {
				one.servers = append(one.servers, at)
			}
		}
		if len(one.servers) > 0 {
			list = append(list, one)
		}
	}
	slices.SortStableFunc(list, func(a, b adapter) int { return cmp.Compare(a.metric, b.metric) })
	var confs []stub.Conf
	for _, a := range list {
		confs = append(confs, stub.Conf{Servers: a.servers, Timeout: 2 * time.Second, Attempts: 2})
	}
	return confs, nil
}

// adapters asks for the list until the room for it is large enough.
func adapters() (*windows.IpAdapterAddresses, error) {
	const flags = windows.GAA_FLAG_SKIP_UNICAST | windows.GAA_FLAG_SKIP_ANYCAST | windows.GAA_FLAG_SKIP_MULTICAST
	size := uint32(16 << 10)
	for range 4 {
		buf := make([]byte, size)
		first := (*windows.IpAdapterAddresses)(unsafe.Pointer(&buf[0]))
		err := windows.GetAdaptersAddresses(windows.AF_UNSPEC, flags, 0, first, &size)
		switch {
		case err == nil && size == 0:
			return nil, nil
		case err == nil:
			return first, nil
		case errors.Is(err, windows.ERROR_NO_DATA):
			return nil, nil
		case !errors.Is(err, windows.ERROR_BUFFER_OVERFLOW):
			return nil, fmt.Errorf("list network adapters: %w", err)
		}
	}
	return nil, errors.New("list network adapters: the list keeps growing")
}

// siteLocal are the well-known addresses that Windows has where no nameserver was configured.
var siteLocal = netip.MustParsePrefix("fec0:0:0:ffff::/64")

func serverAddress(a *windows.SocketAddress) (netip.AddrPort, bool) {
	addr, ok := netip.AddrFromSlice(a.IP())
	if addr = addr.Unmap(); !ok || siteLocal.Contains(addr) {
		return netip.AddrPort{}, false
	}
	if addr.IsLinkLocalUnicast() && addr.Is6() {
		if raw, err := a.Sockaddr.Sockaddr(); err == nil {
			if six, ok := raw.(*syscall.SockaddrInet6); ok && six.ZoneId != 0 {
				addr = addr.WithZone(fmt.Sprint(six.ZoneId))
			}
		}
	}
	return netip.AddrPortFrom(addr, 53), true
}
