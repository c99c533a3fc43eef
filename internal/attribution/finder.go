package attribution

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// LookupsPerSecond and LookupBurst bound how often the kernel is asked; beyond, Find fails and counts.
	LookupsPerSecond = 500
	LookupBurst      = 100

	// linksPerSecond bounds the open files that are looked at, over all lookups; walksPerSecond and walkBurst how often
	// all processes of the sandbox are, when those that are known do not have the socket.
	linksPerSecond = 64 << 10
	walksPerSecond = 20
	walkBurst      = 50

	// guesses is how many descriptors on either side of the one found last are tried before all of a process's are looked
	// through.
	guesses = 16

	// maxHints bounds the sockets whose owner is remembered, maxRecent the processes that are tried first.
	maxHints  = 1024
	maxRecent = 8
)

// Process is a program inside the sandbox.
type Process struct {
	// PID is the process id inside the sandbox's pid namespace.
	PID int

	// Exe is the path of the executable as the process sees it, Args its command line: at most 4 KiB, not masked. Whoever
	// gets them does not write to them.
	Exe  string
	Args []string
}

// Finder looks up the owners of one sandbox's flows. Make one with [New]; it is safe for concurrent use.
type Finder struct {
	initPID int
	diag    *os.File
	limit   *rate.Limiter
	links   *rate.Limiter
	walks   *rate.Limiter

	mu       sync.Mutex
	seq      uint32
	answers  map[string]bool // by network, whether diag knows it, so that what it does not find is not there; absent: not asked yet
	hints    map[uint32]holder
	recent   []*kept
	counters map[string]uint64
}

// holder is where a socket was seen last. It is a hint: it counts only when the socket is still there.
type holder struct {
	process *kept
	fd      string
}

// New returns a finder for the sandbox whose init has the process id initPID in the caller's pid namespace. diag is a
// NETLINK_SOCK_DIAG socket that was opened inside the sandbox's network namespace; the caller closes it after the last
// Find. Without it (nil) the tables under /proc are read, which costs more. Close the finder.
func New(initPID int, diag *os.File) *Finder {
	return &Finder{
		initPID:  initPID,
		diag:     diag,
		limit:    rate.NewLimiter(LookupsPerSecond, LookupBurst),
		links:    rate.NewLimiter(linksPerSecond, maxLinks),
		walks:    rate.NewLimiter(walksPerSecond, walkBurst),
		answers:  make(map[string]bool),
		hints:    make(map[uint32]holder),
		counters: make(map[string]uint64),
	}
}

// Find returns the process that owns the socket of a flow: network is "tcp" or "udp", src the endpoint inside the
// sandbox and dst the one it talks to. It is false when no process was found, because it has ended or may not be looked
// at, or when the bound on lookups was reached.
func (f *Finder) Find(network string, src, dst netip.AddrPort) (Process, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.limit.Allow() {
		f.counters["limited"]++
		return Process{}, false
	}
	flow := tuple{network: network, local: unmap(src), remote: unmap(dst)}
	inode, ok := f.inode(flow)
	if !ok {
		f.counters["no-socket"]++
		return Process{}, false
	}
	p, ok := f.owner(inode)
	if !ok {
		f.counters["no-process"]++
		return Process{}, false
	}
	f.counters["found"]++
	return p, true
}

// Counters returns how the lookups so far ended: "found", "no-socket", "no-process", "limited"; and for how many the
// tables under /proc were read: "tables".
func (f *Finder) Counters() map[string]uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(map[string]uint64, len(f.counters))
	for k, n := range f.counters {
		c[k] = n
	}
	return c
}

// inode returns the inode of the flow's socket.
func (f *Finder) inode(t tuple) (uint32, bool) {
	if t.network != "tcp" && t.network != "udp" || !t.local.IsValid() || !t.remote.IsValid() {
		return 0, false
	}
	if f.diag != nil {
		f.seq++
		inode, err := diagnose(int(f.diag.Fd()), f.seq, t)
		if err == nil {
			f.answers[t.network] = true
			return inode, true
		}
		if errors.Is(err, errNoSocket) && f.diagnosed(t.network) {
			return 0, false // closed already; the tables would be read in vain, and that takes as long as the whole machine has sockets
		}
	}
	f.counters["tables"]++
	return readTables(f.initPID, t)
}

// diagnosed reports whether diag knows the network's sockets, which is asked once. To go by its first success would not do: on
// a busy machine every answer may come after the socket has gone, and then reading tables makes the next one later still.
func (f *Finder) diagnosed(network string) bool {
	known, asked := f.answers[network]
	if !asked {
		f.seq++
		known = knows(int(f.diag.Fd()), f.seq, network)
		f.answers[network] = known
	}
	return known
}

// owner returns the process that holds the socket: where it was seen last, else one of those that opened sockets lately,
// else any of the sandbox.
func (f *Finder) owner(inode uint32) (Process, bool) {
	if h, ok := f.hints[inode]; ok {
		if h.process.holds(h.fd, inode) {
			return f.found(h, inode)
		}
		delete(f.hints, inode)
	}
	budget := int(f.links.Tokens())
	links := budget
	defer func() { f.links.AllowN(time.Now(), budget-max(links, 0)) }()
	if h, ok := f.inRecent(inode, &links); ok {
		return f.found(h, inode)
	}
	if !f.walks.Allow() {
		return Process{}, false
	}
	for _, pid := range members(f.initPID) {
		if slices.ContainsFunc(f.recent, func(k *kept) bool { return k.pid == pid }) {
			continue
		}
		k, err := openProcess(pid)
		if err != nil {
			continue
		}
		if fd, ok := k.search(inode, &links); ok {
			return f.found(holder{k, fd}, inode)
		}
		k.close()
	}
	return Process{}, false
}

// inRecent looks for the socket where the last one was found, and then in all recent processes that are still there.
func (f *Finder) inRecent(inode uint32, links *int) (holder, bool) {
	for i, k := range slices.Clone(f.recent) {
		if i > 0 && k.ended() {
			f.forget(k)
			continue
		}
		if fd, ok := k.guess(inode, links); ok {
			return holder{k, fd}, true
		}
		if i == 0 && k.ended() {
			f.forget(k)
		}
	}
	for _, k := range f.recent {
		if fd, ok := k.search(inode, links); ok {
			return holder{k, fd}, true
		}
	}
	return holder{}, false
}

// found describes the process that holds the socket, and keeps it.
func (f *Finder) found(h holder, inode uint32) (Process, bool) {
	f.keep(h.process)
	p, ok := Process{}, h.process.identify()
	if ok {
		p, ok = h.process.describe()
	}
	if !ok {
		f.forget(h.process)
		return Process{}, false
	}
	if len(f.hints) >= maxHints {
		clear(f.hints)
	}
	f.hints[inode] = h
	h.process.last, _ = strconv.Atoi(h.fd)
	return p, true
}

// keep makes k the first of the recent processes. One that has ended, or another with its id, gives way to it.
func (f *Finder) keep(k *kept) {
	at := slices.Index(f.recent, k)
	if at == 0 {
		return
	}
	if at > 0 {
		f.recent = slices.Delete(f.recent, at, at+1)
	} else if same := slices.IndexFunc(f.recent, func(o *kept) bool { return o.pid == k.pid }); same >= 0 {
		f.forget(f.recent[same])
	}
	f.recent = slices.Insert(f.recent, 0, k)
	for len(f.recent) > maxRecent {
		f.forget(f.recent[maxRecent])
	}
}

// forget closes k, and with it goes every hint to it.
func (f *Finder) forget(k *kept) {
	f.recent = slices.DeleteFunc(f.recent, func(o *kept) bool { return o == k })
	maps.DeleteFunc(f.hints, func(_ uint32, h holder) bool { return h.process == k })
	k.close()
}

// Close gives back what the finder keeps open. Nothing is found any more.
func (f *Finder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.recent) > 0 {
		f.forget(f.recent[0])
	}
	f.limit = rate.NewLimiter(0, 0)
	return nil
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
