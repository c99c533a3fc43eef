//go:build linux && !client

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/internal/guard"
	"github.com/weir-dev/weir/internal/lockdown"
	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/sandbox"
	"github.com/weir-dev/weir/tunnel/handoff"
)

// dataPathName is argv[0] of the data path.
const dataPathName = "weir-datapath"

func isDataPath() bool { return len(os.Args) > 0 && os.Args[0] == dataPathName }

// dataPathConfig is the launcher's first message.
type dataPathConfig struct {
	App, Sandbox string
	Command      []string
	Door         string
	Link         sandbox.LinkInfo
	IPv6         bool // inside
	HostIPv6     bool // of the host, and so of the direct route
	Policy       policyConfig
	EventsPath   string
	Learn        bool
	Quiet, Color bool
	LogLevel     string
	Known        []string // hosts the app was seen with before
	Search       []string // search domains inside
	Held         []string // what keeps CMD, for the event log

	// Joins says that the launcher joins an edge when it is asked to.
	Joins bool

	// Host is set for a container of the host's; nil for a sandbox.
	Host *hostGuest

	// Files names the descriptors that come along, by position: link, dial, edge, errands, owners, events, host-port:N,
	// publish:N. Without an edge there is no tunnel.
	Files []string
}

// dataPathAnswer says that the data path is ready, or why it is not, and what mends it where that is known.
type dataPathAnswer struct{ Error, Fix string }

// order is every later message of the launcher: the install rules are over, or CMD has ended.
type order struct {
	InstallDone bool
	Finish      bool
	Status      int
	Grace       time.Duration
}

// dataPathReport is the data path's last word.
type dataPathReport struct {
	Rows     []event.Row
	Denials  uint64 // those that --fail-on denied counts
	NewHosts []string
	Learned  string
	Dropped  uint64
}

// failed reports whether what --fail-on names has happened.
func (r *dataPathReport) failed(on string) bool {
	return on == "denied" && r.Denials > 0 || on == "first-seen" && len(r.NewHosts) > 0
}

// dataPath is the process that every packet of one sandbox goes through.
type dataPath struct {
	room
	cfg    dataPathConfig
	files  map[string][]*os.File
	log    *logrus.Logger
	book   *event.Log
	report *event.Report
	seen   *firstSeen
	learn  *learner
	ui     *ui

	errands *errands
	owners  *owners

	// doors are those of the sandbox by the name that events have for them; listenDNS opens the resolver's sockets on the
	// i-th gateway address.
	doors     map[string]door
	listenDNS func(i int, at netip.AddrPort) (net.PacketConn, net.Listener, error)

	inside *insideDialer
	drops  *drops
	start  time.Time
	cancel context.CancelFunc
}

// dataPathMain is the whole life of the process. It ends when the launcher says so or is gone; in the latter case at
// once, so that nothing of the sandbox leaves any more.
func dataPathMain() {
	control, err := openControl(os.NewFile(3, "control"), maxMessage)
	if err != nil {
		os.Exit(1)
	}
	d := &dataPath{start: time.Now(), doors: map[string]door{}}
	files, err := control.receive(&d.cfg)
	if err != nil {
		os.Exit(1)
	}
	if err := d.open(files); err != nil {
		control.send(newDataPathAnswer(err))
		os.Exit(1)
	}
	if control.send(dataPathAnswer{}) != nil {
		os.Exit(1)
	}
	for {
		var o order
		switch _, err := control.receive(&o); {
		case err != nil:
			os.Exit(1)
		case o.InstallDone:
			d.policy.InstallDone()
			d.gate.Recheck()
		case o.Finish:
			control.send(d.finish(o))
			os.Exit(0)
		}
	}
}

func newDataPathAnswer(err error) dataPathAnswer {
	a := dataPathAnswer{Error: err.Error()}
	var h hinted
	if errors.As(withHint(err), &h) {
		a.Fix = h.fix
	}
	return a
}

// open joins the parts, in the order of the packet.
func (d *dataPath) open(files []*os.File) error {
	runtime.GOMAXPROCS(processors(d.cfg.Door))
	d.files = sortFiles(d.cfg.Files, files)
	d.app, d.sandbox, d.hostIPv6 = d.cfg.App, d.cfg.Sandbox, d.cfg.HostIPv6
	d.log = newLogger(os.Stderr, d.cfg.LogLevel)
	d.ui = &ui{w: os.Stderr, color: d.cfg.Color}
	if d.cfg.Host != nil {
		d.ui.about = d.cfg.App
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	for _, step := range []func() error{d.openErrands, d.openEdge, d.openPolicy, d.openEvents, d.openDoors, d.openResolver, d.openGate} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := d.serve(ctx); err != nil {
		return err
	}
	lock := lockdown.DataPath
	if d.cfg.Host != nil {
		lock = lockdown.HostDataPath
	}
	held, err := lock()
	if err != nil {
		return err
	}
	d.emit(&event.SandboxStart{Command: d.cfg.Command, Door: d.gate.Door, Link: d.cfg.Link.Kind, Policy: d.policy.Digest(), Mode: d.policy.Mode(), Held: append(held, d.cfg.Held...)})
	return nil
}

// sortFiles puts descriptors that came in a message under the names that came with them.
func sortFiles(names []string, files []*os.File) map[string][]*os.File {
	sorted := map[string][]*os.File{}
	for i, f := range files {
		if i < len(names) {
			sorted[names[i]] = append(sorted[names[i]], f)
		}
	}
	return sorted
}

func (d *dataPath) file(name string) *os.File {
	if f := d.files[name]; len(f) > 0 {
		return f[0]
	}
	return nil
}

// make compiles the policy. Launcher and data path do it alike, from the same text.
func (c policyConfig) make(search []string) (*policy.Policy, error) {
	cfg := policy.Config{
		Mode: c.Mode, Allow: c.Allow, Deny: c.Deny, App: c.App, Route: c.Route,
		HostPorts: c.HostPorts, Search: search,
	}
	if !c.OnHost {
		cfg.Gateway = []netip.Addr{gateway4, gateway6}
	}
	if c.File != nil {
		file, err := policy.ParseFile(c.FileName, c.File)
		if err != nil {
			return nil, err
		}
		cfg.File = file
	}
	host, err := guard.NewHost(guard.HostAddrs)
	if err != nil {
		return nil, fmt.Errorf("read the host's own addresses: %w", err)
	}
	cfg.HostAddrs = host.Addrs
	return policy.New(cfg)
}

func (d *dataPath) openErrands() (err error) {
	if d.errands, err = newErrands(d.file("errands")); err != nil {
		return err
	}
	d.owners, err = newOwners(d.file("owners"))
	return err
}

// openEdge takes over the socket of the edge process.
func (d *dataPath) openEdge() error {
	f := d.file("edge")
	if f == nil && !d.cfg.Joins {
		return nil
	}
	link := &edgeLink{}
	if d.cfg.Joins {
		link.join = func() (*os.File, error) { return d.errands.open(edgeFile) }
	}
	if f != nil {
		conn, err := handoff.NewConn(f)
		if err != nil {
			return err
		}
		link.conn = conn
	}
	d.edge = link
	return nil
}

func (d *dataPath) openPolicy() (err error) {
	d.policy, err = d.cfg.Policy.make(d.cfg.Search)
	if err == nil && d.cfg.Host != nil {
		d.policy.InstallDone() // nobody reads along to know when it is over
	}
	return err
}

// openEvents opens the book and what reads along in it.
func (d *dataPath) openEvents() error {
	var err error
	if f := d.file("events"); f != nil {
		d.book, err = event.OpenFD(f.Fd(), event.Limits{})
	} else {
		d.book, err = event.OpenFileBy(logFiles{d.errands}, d.cfg.EventsPath, event.Limits{})
	}
	if err != nil {
		return err
	}
	d.report = &event.Report{}
	told := &notices{ui: d.ui, policy: d.policy}
	if !d.cfg.Quiet {
		d.report.OnDeny = told.denied
	}
	d.seen = newFirstSeen(d.cfg.Known, func(host string) { d.emit(&event.Alert{What: "first-seen", Subject: host}) })
	sinks := []event.Sink{d.book, withoutExpansions{d.report}, d.seen}
	if d.cfg.Learn {
		d.learn = &learner{}
		sinks = append(sinks, d.learn)
	}
	d.events = event.Tee(sinks...)
	if !d.cfg.Quiet {
		d.events = &userDenials{Sink: d.events, notices: told}
	}
	return nil
}

// openResolver builds the sandbox's DNS.
func (d *dataPath) openResolver() error {
	if h := d.cfg.Host; h != nil {
		d.room.openResolver(h.upstream(d.errands.open), d.cfg.IPv6, nil, d.log)
		return nil
	}
	gateways, userHost := []netip.Addr{gateway4}, []netip.Addr{tunnelHost4}
	if d.cfg.IPv6 {
		gateways, userHost = append(gateways, gateway6), append(userHost, tunnelHost6)
	}
	local := map[string][]netip.Addr{hostName: gateways}
	if d.edge != nil {
		local[tunnelHostName], d.tunnelAlias = userHost, tunnelAlias()
	}
	d.room.openResolver(&stub.Host{Open: d.errands.open}, d.cfg.IPv6, local, d.log)
	return nil
}

func (d *dataPath) openGate() error {
	told := d.ui
	if d.cfg.Quiet {
		told = nil
	}
	out := newDirect(d.cfg.Policy.HostPorts, told)
	d.room.openGate(d.cfg.Door, out)
	d.gate.Process = d.owners.find
	if d.cfg.Host != nil {
		out.Control = d.cfg.Host.markSockets
	} else {
		d.gate.HostAlias = hostAlias()
	}
	return nil
}

// serve starts everything that runs for as long as the sandbox.
func (d *dataPath) serve(ctx context.Context) error {
	var handler flow.Opener = d.gate
	if h := d.cfg.Host; h != nil {
		handler = fromGuest{d.gate, h.Addrs}
		if err := d.serveHost(ctx); err != nil {
			return err
		}
	}
	for i, gateway := range d.dns.Local[hostName] {
		pc, ln, err := d.listenDNS(i, netip.AddrPortFrom(gateway, 53))
		if err != nil {
			return fmt.Errorf("listen for dns: %w", err)
		}
		go d.mustServe(ctx, "dns", func() error { return d.dns.Serve(ctx, pc, ln) })
	}
	for name, door := range d.doors {
		go d.mustServe(ctx, name, func() error { return door.Serve(ctx, through{handler, name}) })
	}
	go d.trim(ctx)
	d.drops = newDrops(d.counters, d.tellDrop())
	go d.drops.watch(ctx)
	for name, files := range d.files {
		kind, number, _ := strings.Cut(name, ":")
		port, _ := strconv.Atoi(number)
		for _, f := range files {
			var err error
			switch kind {
			case "host-port":
				err = d.serveHostPort(ctx, f, uint16(port))
			case "publish":
				err = d.servePublished(ctx, f, uint16(port))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// mustServe runs a part that ends with ctx and not before. If it does, so does the process, and with it the sandbox: a
// program that is cut off in silence would be a riddle, and one that runs on without its resolver a risk.
func (d *dataPath) mustServe(ctx context.Context, what string, serve func() error) {
	if err := serve(); ctx.Err() == nil {
		d.fail("%s ended: %v", what, err)
	}
}

// fail says why and ends the process.
func (d *dataPath) fail(format string, args ...any) {
	d.ui.warnf(format, args...)
	d.cancel() // nothing more is carried
	d.book.Close()
	os.Exit(1)
}

// When trim does something: at so many flows more or fewer than the last time, or when the heap has been given so much since
// then and less than trimQuiet in the last second.
const (
	trimFlows = 256
	trimHeap  = 4 << 20
	trimQuiet = 64 << 10
	trimEvery = time.Second
)

// trim gives back what flows needed to begin and do not need to wait, and what they held when they are gone: when many more
// or many fewer are open than before and their number has settled, or when there was work and now is none, it collects
// garbage. The collector also halves the stacks that it finds mostly empty; hence twice. It ends a data path that grows out
// of bounds all the same.
func (d *dataPath) trim(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	var trimmed, before struct {
		flows int
		heap  uint64
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if used, soon := lockdown.OutOfMemory(); soon {
			d.fail("the data path holds %d of the %d MiB that it may have", used>>20, lockdown.MemoryMax>>20)
		}
		now := before
		now.flows, now.heap = d.gate.Flows(), allocated()
		settled := far(now.flows, trimmed.flows) && !far(now.flows, before.flows)
		quiet := now.heap-trimmed.heap >= trimHeap && now.heap-before.heap < trimQuiet
		if settled || quiet {
			runtime.GC()
			debug.FreeOSMemory()
			trimmed = now
		}
		before = now
	}
}

// allocated is how many octets of the heap were given out so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// far reports whether the numbers of flows differ by much.
func far(a, b int) bool { return a >= b+trimFlows || b >= a+trimFlows }

// settle is how long the doors have, when CMD has ended, to see what it sent last: it is in the kernel's queues, and so is the
// order to finish. A rest of any length lets them go first.
const settle = 500 * time.Microsecond

// finish carries what CMD had written, ends the flows that are left and closes the book.
func (d *dataPath) finish(m order) *dataPathReport {
	time.Sleep(settle)
	ctx, cancel := context.WithTimeout(context.Background(), m.Grace)
	d.gate.Drain(ctx)
	cancel()
	d.cancel()
	for _, door := range d.doors {
		door.Close()
	}
	for end := time.Now().Add(time.Second); d.gate.Flows() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	d.drops.report(0)
	d.emit(&event.SandboxExit{Command: d.cfg.Command, Door: d.gate.Door, Link: d.cfg.Link.Kind, Policy: d.policy.Digest(), Mode: d.policy.Mode(),
		Status: m.Status, Duration: time.Since(d.start)})
	d.book.Close()
	rep := &dataPathReport{Rows: d.report.Rows(), NewHosts: d.seen.fresh(), Denials: countedDenials(d.report.Denials())}
	for _, n := range d.book.Dropped() {
		rep.Dropped += n
	}
	if d.learn != nil {
		rep.Learned = d.learn.policy(d.cfg)
	}
	return rep
}
