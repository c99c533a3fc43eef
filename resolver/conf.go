package resolver

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/internal/hostname"
)

// Bounds of what is read from the host's files.
const (
	maxFile        = 16 << 20 // octets of a file; lists of blocked names in hosts files have some 5 MiB
	maxNameservers = 8
	maxSearch      = 32
	lookAgain      = time.Second // a file is looked at again no sooner
)

// conf is what resolv.conf(5) says, as far as it concerns a stub.
type conf struct {
	servers  []netip.Addr
	search   []string
	options  []string // those that a stub inside the sandbox follows as well
	timeout  time.Duration
	attempts int
	rotate   bool
	tcp      bool // use-vc
}

// parseConf reads resolv.conf. What it does not know it passes over, as every stub does; without a nameserver there is one
// on the loopback.
func parseConf(r io.Reader) conf {
	c := conf{timeout: 2 * time.Second, attempts: 2}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0][0] == '#' || f[0][0] == ';' {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(c.servers) < maxNameservers {
				c.servers = append(c.servers, a)
			}
		case "domain":
			c.search = searchList(f[1:2])
		case "search":
			c.search = searchList(f[1:])
		case "options":
			for _, o := range f[1:] {
				c.option(o)
			}
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return c
}

func searchList(words []string) []string {
	var list []string
	for _, w := range words {
		if n, err := hostname.Labels(w); err == nil && len(list) < maxSearch {
			list = append(list, n)
		}
	}
	return list
}

func (c *conf) option(o string) {
	name, value, _ := strings.Cut(o, ":")
	n, _ := strconv.Atoi(value)
	switch name {
	case "timeout":
		c.timeout = time.Duration(min(max(n, 1), 30)) * time.Second
	case "attempts":
		c.attempts = min(max(n, 1), 5)
	case "rotate":
		c.rotate = true
	case "use-vc":
		c.tcp = true
	case "ndots":
		c.options = append(c.options, "ndots:"+strconv.Itoa(min(max(n, 0), 15)))
	case "edns0", "trust-ad", "no-aaaa":
		c.options = append(c.options, name)
	}
}

// file is a file of the host whose meaning is kept until the file changes.
type file[T any] struct {
	mu     sync.Mutex
	looked time.Time
	info   os.FileInfo // of what was read; nil before
	value  *T
}

// get returns the file's meaning and whether it was read again. A file that is away for a moment, as files are that get
// replaced, keeps its last meaning; one that never was there reads as empty.
func (f *file[T]) get(path string, open func(string) (*os.File, error), parse func(io.Reader) T) (value T, changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.value != nil && now.Sub(f.looked) < lookAgain {
		return *f.value, false, nil
	}
	f.looked = now
	if changed, err = f.read(path, open, parse); f.value == nil {
		empty := parse(bytes.NewReader(nil))
		f.value = &empty
	}
	return *f.value, changed, err
}

func (f *file[T]) read(path string, open func(string) (*os.File, error), parse func(io.Reader) T) (changed bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("look at resolver file: %w", err)
	}
	if f.info != nil && os.SameFile(f.info, info) && f.info.ModTime().Equal(info.ModTime()) && f.info.Size() == info.Size() {
		return false, nil
	}
	if open == nil {
		open = os.Open
	}
	r, err := open(path)
	if err != nil {
		return false, fmt.Errorf("read resolver file: %w", err)
	}
	defer r.Close()
	v := parse(io.LimitReader(r, maxFile))
	f.value, f.info = &v, info
	return true, nil
}
