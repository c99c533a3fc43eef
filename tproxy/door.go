//go:build linux

package tproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/batch"
	"github.com/weir-dev/weir/tproxy/rules"
)

// Limits bounds what one sandbox may hold. A zero field takes its default, which package flow has.
type Limits struct {
	// TCPFlows is how many connections may live at once; one beyond it is reset.
	TCPFlows int

	// HalfOpen is how many TCP handshakes may wait for a verdict or an upstream at once, where SYNs are held. A SYN beyond
	// it is dropped; the client's kernel tries again.
	HalfOpen int

	// UDPFlows bounds the table of UDP flows; the one that was quiet for longest makes room. HalfOpenUDP is how many of
	// them may wait for a verdict at once; a datagram of a new tuple beyond it is dropped.
	UDPFlows, HalfOpenUDP int

	// UDPIdle ends a UDP flow that was quiet that long, UDPUnanswered one that never had an answer, UDPIdleDNS one to
	// port 53.
	UDPIdle, UDPUnanswered, UDPIdleDNS time.Duration
}

func (l Limits) withDefaults() Limits {
	setDefault(&l.TCPFlows, flow.DefaultTCPFlows)
	setDefault(&l.HalfOpen, flow.DefaultHalfOpen)
	setDefault(&l.UDPFlows, flow.DefaultUDPFlows)
	setDefault(&l.HalfOpenUDP, flow.DefaultHalfOpenUDP)
	setDefault(&l.UDPIdle, flow.DefaultUDPIdle)
	setDefault(&l.UDPUnanswered, flow.DefaultUDPUnanswered)
	setDefault(&l.UDPIdleDNS, flow.DefaultUDPIdleDNS)
	return l
}

// setDefault gives *v the value d when it is not positive.
func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Config is what a Door is made of.
type Config struct {
	// Files are the sockets of the sandbox's namespace by their kind (package rules): KindTCP, KindUDP, KindICMP,
	// KindQueue, KindLog and KindWatch are used here. The Door owns them.
	Files map[string][]*os.File

	// Socket opens a UDP socket in the sandbox's namespace, non-blocking, close-on-exec, with SO_REUSEADDR. The caller owns the descriptor. Required.
	Socket func(ipv6 bool) (fd int, err error)

	// Verdict has somebody give the verdict on a held SYN who may; nil: this process may itself.
	Verdict func(id uint32, accept bool)

	Limits Limits

	// Log gets what goes wrong inside the door; nil is silence.
	Log logrus.FieldLogger
}

// HoldsSYN reports whether the kernel holds SYNs for the door, so that refused is refused.
func (d *Door) HoldsSYN() bool { return d.queue != nil }

// Door is one sandbox's TPROXY door. Make it with New, run it with Serve.
type Door struct {
	cfg      Config
	tcp      []net.Listener
	queue    *synQueue // nil where the kernel holds no SYNs
	udp      []*udpListener
	table    *udpTable
	icmp     *unreachable
	drops    *dropLog
	watched  *os.File // tells of changes of the rules; nil where nobody watches
	counters counters

	datagrams batch.Stats

	ctx    context.Context
	cancel context.CancelFunc
	flows  sync.WaitGroup
	once   sync.Once
}

// New takes the sockets over. On error they are closed.
func New(cfg Config) (*Door, error) {
	cfg.Limits = cfg.Limits.withDefaults()
	d := &Door{cfg: cfg}
	d.table = newUDPTable(d)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	if err := d.open(); err != nil {
		d.Close()
		return nil, fmt.Errorf("open tproxy door: %w", err)
	}
	return d, nil
}

func (d *Door) open() error {
	for _, f := range d.cfg.Files[rules.KindTCP] {
		ln, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return err
		}
		d.tcp = append(d.tcp, ln)
	}
	for _, f := range d.cfg.Files[rules.KindUDP] {
		l, err := newUDPListener(d, f)
		if err != nil {
			return err
		}
		d.udp = append(d.udp, l)
	}
	if len(d.tcp) == 0 || len(d.udp) == 0 {
		return errors.New("no listeners")
	}
	var err error
	if d.icmp, err = newUnreachable(d.cfg.Files[rules.KindICMP]); err != nil {
		return err
	}
	if f := d.cfg.Files[rules.KindQueue]; len(f) > 0 {
		d.queue = &synQueue{file: f[0], verdict: d.cfg.Verdict, lost: func() { d.counters.add(dropTCPQueue) }, strange: func() { d.counters.add(dropTCPStrange) }}
	}
	if f := d.cfg.Files[rules.KindLog]; len(f) > 0 {
		d.drops = &dropLog{source: f[0], counters: &d.counters}
	}
	if f := d.cfg.Files[rules.KindWatch]; len(f) > 0 {
		d.watched = f[0]
	}
	return nil
}

// ErrRulesChanged is what Serve returns when somebody has changed the rules that the door is made of: nobody but the owner of
// the namespace can, and nothing that came through it afterwards could be trusted to have met them.
var ErrRulesChanged = errors.New("somebody changed the nftables rules of the sandbox")

// Serve hands each flow to h until ctx ends or the door is closed; then it waits for the handlers and for its own goroutines.
// It always returns a non-nil error: ctx's, net.ErrClosed, ErrRulesChanged, or what a listener failed with.
func (d *Door) Serve(ctx context.Context, h flow.Handler) error {
	defer d.flows.Wait()
	var readers sync.WaitGroup
	defer readers.Wait() // before the flows: only readers, and flows that live, begin any
	defer d.Close()
	stop := context.AfterFunc(ctx, func() { d.Close() })
	defer stop()
	failed := make(chan error, len(d.tcp)+len(d.udp)+2)
	read := func(loop func() error) { readers.Go(func() { failed <- loop() }) }
	tcp := &tcpDoor{door: d, queue: d.queue, handler: h, slots: make(chan struct{}, d.cfg.Limits.TCPFlows), waiting: map[tcpKey]*tcpArrival{}}
	if d.queue != nil {
		read(func() error { return d.queue.receive(tcp.hold) })
	}
	for _, ln := range d.tcp {
		read(func() error { return tcp.acceptAll(ln) })
	}
	for _, l := range d.udp {
		l.handler = h
		read(l.receiveAll)
	}
	if d.watched != nil {
		read(d.watchRules)
	}
	if d.drops != nil {
		readers.Go(d.drops.readAll)
	}
	err := <-failed
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// watchRules returns as soon as the rules are changed, or may have been.
func (d *Door) watchRules() error {
	_, err := d.watched.Read(make([]byte, 4096))
	if err == nil || errors.Is(err, syscall.ENOBUFS) {
		return ErrRulesChanged
	}
	return err
}

// Close ends every flow and the listeners. It is idempotent.
func (d *Door) Close() error {
	d.once.Do(func() {
		d.cancel()
		for _, ln := range d.tcp {
			ln.Close()
		}
		for _, l := range d.udp {
			l.close()
		}
		d.table.close()
		for _, files := range d.cfg.Files {
			for _, f := range files {
				f.Close()
			}
		}
	})
	return nil
}

// Counters returns how often what happened. What was thrown away starts with "drop-".
func (d *Door) Counters() map[string]uint64 {
	out := d.counters.snapshot()
	if n := d.datagrams.Lost.Load(); n > 0 {
		out[dropUDPSend] = n
	}
	if n := d.datagrams.Refused.Load(); n > 0 {
		out[countSegmentsOff] = n
	}
	return out
}

func (d *Door) debug(err error, what string) {
	if d.cfg.Log != nil {
		d.cfg.Log.WithError(err).Debug(what)
	}
}

func (d *Door) warn(err error, what string) {
	if d.cfg.Log != nil {
		d.cfg.Log.WithError(err).Warn(what)
	}
}
