//go:build linux

package container

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a resolv.conf, which belongs to the container.
const (
	maxResolvConf = 64 << 10
	maxResolvers  = 8
	rootPatience  = time.Second // for a file of the container: it may lie on a file system that the container serves
	maxWaiting    = 4           // reads that have not come back; while there are so many no resolv.conf is read
)

// waiting holds a token for each read of a container's file that is under way.
type waiting chan struct{}

// resolvers returns the DNS servers that the process's container wants; nil if it does not say, or not in time.
func (w waiting) resolvers(p *process) []netip.Addr {
	dir, err := unix.Dup(p.dir)
	if err != nil {
		return nil
	}
	select {
	case w <- struct{}{}:
	default:
		unix.Close(dir)
		return nil
	}
	result := make(chan []byte, 1)
	go func() {
		defer func() { <-w }()
		defer unix.Close(dir)
		b, _ := readInRoot(dir, "etc/resolv.conf", maxResolvConf)
		result <- b
	}()
	late := time.NewTimer(rootPatience)
	defer late.Stop()
	select {
	case b := <-result:
		return parseResolvConf(b)
	case <-late.C:
		return nil
	}
}

// readInRoot reads the first limit octets of a file below the root directory of the process whose directory of /proc this
// is. Links lead nowhere but below that root, and a file that is not ordinary is not opened.
func readInRoot(process int, path string, limit int) ([]byte, error) {
	root, err := unix.Openat(process, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root of container: %w", err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	found, err := unix.Openat2(root, path, &how)
	if err != nil {
		return nil, fmt.Errorf("find %q in container: %w", path, err)
	}
	defer unix.Close(found)
	if err := ordinary(found); err != nil {
		return nil, fmt.Errorf("open %q in container: %w", path, err)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", found), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %q in container: %w", path, err)
	}
	defer unix.Close(fd)
	return readAll(fd, limit)
}

// parseResolvConf returns the servers of a resolv.conf(5), at most maxResolvers.
func parseResolvConf(b []byte) (servers []netip.Addr) {
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" || len(servers) == maxResolvers {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			servers = append(servers, a.Unmap())
		}
	}
	return servers
}
