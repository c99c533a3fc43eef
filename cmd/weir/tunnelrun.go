package main

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel/client"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/localdns"
	"github.com/weir-dev/weir/tunnel/session"
)

// connection is what "weir connect" is made of, before it connects.
type connection struct {
	edge  edgeAddress
	who   *creds.Client
	list  *client.Policy
	asked *askedFile
}

// connect joins the parts and runs them until the user, or the edge for good, ends it.
func (f *connectFlags) connect(cmd *cobra.Command, g *globals, u *ui, c connection) (err error) {
	limitProcessors()
	record, err := f.openLog()
	if err != nil {
		return err
	}
	defer func() {
		if err := record.Close(); err != nil {
			u.warnf("the event log is not complete: %v", err)
		}
	}()
	show, err := f.openShow(cmd, u)
	if err != nil {
		return err
	}
	defer show.close()
	sink := event.Tee(record, show.sink)

	log := newLogger(show.stderr, g.logLevel)
	names := localdns.New(localdns.Config{Log: log})
	defer names.Close()
	id := c.who.Identity().String()
	hc := client.HandlerConfig{Policy: c.list, Names: names, Sink: sink, Client: id,
		Limits: client.Limits{Flows: f.maxFlows, BytesPerDay: uint64(max(f.dayMiB, 0)) << 20}, Remember: c.asked.remember}
	if f.ask {
		hc.Ask = show.ask
	}
	handler := client.NewHandler(hc)
	defer handler.Close()

	reports := &reporter{client: id, sink: sink, show: show, names: names, list: c.list}
	sup, err := client.NewSupervisor(client.SupervisorConfig{
		Edge: c.edge.tunnelURL(), Roots: c.edge.roots, Credentials: c.who, Handler: handler, Transport: f.transport, Log: log,
		Session: session.ClientConfig{Routes: c.list.Routes(), Software: "weir " + version, OS: runtime.GOOS, Log: log},
		Report:  reports.report,
	})
	if err != nil {
		return usageError{err}
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	end := &ending{drain: sup.Quit, kill: cancel}
	defer end.stop()
	reports.guardEdge(ctx, c.edge)
	show.start(tunnelEnd{who: id, edge: c.edge.String(), handler: handler, state: sup.State, quit: end.now, maxFlows: handler.MaxFlows(), audit: c.list.Audit()})
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	go func() {
		for {
			select {
			case <-signals:
				end.now(true) // whoever stops the command stops what goes through it
			case <-ctx.Done():
				return
			}
		}
	}()
	err = sup.Run(ctx)
	show.close()
	return endStatus(err, c.edge)
}

// openLog opens the event log of the user's end.
func (f *connectFlags) openLog() (*event.Log, error) {
	path := f.events
	if path == "" {
		dir, err := stateDir()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(dir, "connect.jsonl")
	}
	l, err := event.OpenFile(path, event.Limits{})
	if err != nil {
		return nil, hint(err, "--events PATH")
	}
	return l, nil
}

// shown is what the user sees: a picture, lines, or JSON.
type shown struct {
	sink   event.Sink
	ask    func(context.Context, client.Prompt) (client.Answer, error)
	stderr io.Writer // for diagnostics
	say    func(string)
	start  func(tunnelEnd)
	close  func() // more than once
}

// openShow chooses between them.
func (f *connectFlags) openShow(cmd *cobra.Command, u *ui) (*shown, error) {
	noColor, _ := cmd.Flags().GetBool("no-color")
	switch {
	case !f.plain && !wantsJSON(cmd) && canShow():
		return showPicture(wantsColor(os.Stdout) && !noColor)
	case f.plain || !wantsJSON(cmd) && canAsk():
		l := newEventLines(cmd.OutOrStdout())
		s := &shown{sink: l, stderr: os.Stderr, say: l.say, start: func(tunnelEnd) {}, close: l.close}
		if f.ask {
			s.ask = newLineAsker(os.Stdin, os.Stderr).ask
		}
		return s, nil
	}
	stdout, ok := cmd.OutOrStdout().(*os.File)
	if !ok {
		stdout = os.Stdout
	}
	out, err := event.OpenFD(stdout.Fd(), event.Limits{})
	if err != nil {
		return nil, err
	}
	s := &shown{sink: out, stderr: os.Stderr, say: func(line string) { u.sayf("%s", line) }, start: func(tunnelEnd) {}, close: sync.OnceFunc(func() { out.Close() })}
	if f.ask {
		s.ask = newLineAsker(os.Stdin, os.Stderr).ask
	}
	return s, nil
}

// showPicture takes the terminal over once the tunnel runs.
func showPicture(color bool) (*shown, error) {
	d := newDisplay(color)
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	var screen *screen
	s := &shown{sink: d, ask: d.ask, stderr: displayWriter{d}, say: d.say}
	s.start = func(end tunnelEnd) {
		d.end = end
		opened, err := openScreen(os.Stdin, os.Stdout)
		if err != nil {
			end.quit(true)
			return
		}
		screen = opened
		go readKeys(os.Stdin, d.keys)
		work.Go(func() {
			defer screen.close() // in a panic, too
			d.run(ctx, screen)
		})
	}
	s.close = sync.OnceFunc(func() {
		cancel()
		given := make(chan struct{})
		go func() {
			defer close(given)
			work.Wait()
			if screen != nil {
				screen.close()
			}
		}()
		select {
		case <-given:
		case <-time.After(closeFor): // guardScreen does the rest when the terminal takes something again
		}
	})
	return s, nil
}

// closeFor is how long the end waits for a terminal that takes nothing: one that is stopped, or at the end of a dead connection.
const closeFor = 2 * time.Second

// displayWriter shows diagnostics among what happened lately, where they do not tear the picture.
type displayWriter struct{ d *display }

func (w displayWriter) Write(b []byte) (int, error) {
	w.d.say(time.Now().Format(time.TimeOnly) + "  " + cell(string(b)))
	return len(b), nil
}

// reporter tells of the tunnel itself: events for the log, lines for people, and for the list where the edge is.
type reporter struct {
	client string
	sink   event.Sink
	show   *shown
	names  *localdns.Resolver
	list   *client.Policy

	mu        sync.Mutex
	edge      []netip.Addr
	transport string // of the session that stands, "" without one
	session   string
	last      client.State
}

// report is called by the supervisor for each change.
func (r *reporter) report(s client.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended := s.Phase == client.Ended || s.Transport == ""
	another := s.Session != "" && s.Session != r.session // while a session drains its id is not said
	if r.transport != "" && (ended || another) {
		r.down(s.Reason)
	}
	if !ended && another {
		r.transport, r.session = s.Transport, s.Session
		r.emit(&event.Tunnel{Up: true, Client: r.client, Transport: s.Transport, Remote: s.Edge, Session: s.Session})
	}
	if s.Phase != client.Connected {
		r.names.Renew() // the network may be another one
	}
	if a, err := netip.ParseAddrPort(s.Edge); err == nil {
		r.learn(a.Addr())
	}
	if s.Phase != r.last.Phase || s.Reason != r.last.Reason {
		r.show.say(time.Now().Format(time.TimeOnly) + "  " + cell(string(s.Phase)) + detailAfter(s))
	}
	r.last = s
}

func detailAfter(s client.State) string {
	if d := stateDetail(s); d != "" {
		return ": " + cell(d)
	}
	return ""
}

func (r *reporter) emit(t *event.Tunnel) {
	r.sink.Emit(&event.Event{Time: time.Now(), Details: t})
}

// down tells the end of the session that stands; the lock is held.
func (r *reporter) down(reason string) {
	if reason == "" {
		reason = "ended"
	}
	r.emit(&event.Tunnel{Client: r.client, Transport: r.transport, Remote: r.last.Edge, Session: r.session, Reason: reason})
	r.transport, r.session = "", ""
}

// maxEdgeAddrs bounds the addresses that are known to be the edge's.
const maxEdgeAddrs = 64

// learn guards another address of the edge; the lock is held.
func (r *reporter) learn(a netip.Addr) {
	a = a.Unmap().WithZone("")
	for _, known := range r.edge {
		if known == a {
			return
		}
	}
	if len(r.edge) < maxEdgeAddrs {
		r.edge = append(r.edge, a)
		r.list.SetEdge(r.edge)
	}
}

// edgeLookup bounds the first lookup of the edge's addresses.
const edgeLookup = 5 * time.Second

// guardEdge guards the addresses that the edge's name has now. Others become known when the supervisor goes there.
func (r *reporter) guardEdge(ctx context.Context, edge edgeAddress) {
	ctx, cancel := context.WithTimeout(ctx, edgeLookup)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", edge.host)
	if err != nil {
		return // the supervisor says so
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range addrs {
		r.learn(a)
	}
}

// say adds a line to what happened lately.
func (d *display) say(line string) {
	d.mu.Lock()
	d.note(line)
	d.mu.Unlock()
	d.nudge()
}
