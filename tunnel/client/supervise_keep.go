package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/session"
	"github.com/weir-dev/weir/tunnel/wire"
)

// keeper is Run's memory. All of it belongs to one goroutine; what runs beside it comes back through events.
type keeper struct {
	*Supervisor
	ctx    context.Context
	work   sync.WaitGroup
	events chan func()

	cur      carrier   // the session that takes new flows; nil without one
	since    time.Time // when it began
	draining bool      // the edge is about to end it
	newer    bool      // the edge says that another process has come
	stays    error     // why Run is to end when cur does

	attempt  *attempt // under way
	wants    goal     // what the next one is for
	next     *time.Timer
	earliest time.Time // when the edge said to come back; zero for any time
	giveUp   time.Time // when it said not to try any more; zero for never
	backoff  backoff
	small    bool // packets of the least size: larger ones got lost
	lastSeen error
	replaced time.Time // when a session was last taken for one that needs a successor

	health health
	path   path
	renew  renewal
}

// goal is what an attempt is for.
type goal string

const (
	anyWay   goal = "any"  // a session
	backHome goal = "quic" // a session on QUIC, while there is one on WebSocket
)

// attempt is one race under way.
type attempt struct {
	goal   goal
	cancel context.CancelFunc
}

func newKeeper(ctx context.Context, s *Supervisor) *keeper {
	k := &keeper{Supervisor: s, ctx: ctx, events: make(chan func()), wants: anyWay, backoff: backoff{random: s.parts.random}}
	k.next = time.NewTimer(0)
	return k
}

// run takes events until it has an error to end with, or nil to end without.
func (k *keeper) run() error {
	defer k.next.Stop()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var changes <-chan struct{}
	if k.parts.changes != nil {
		changes = k.parts.changes(k.ctx)
	}
	k.path = path{wall: k.parts.wall(), mono: time.Now(), source: k.parts.source(k.edgeAddr())}
	k.report(State{Phase: Connecting, Edge: k.cfg.Edge.Host})
	for {
		var done, drained <-chan struct{}
		if k.cur != nil {
			done = k.cur.Done()
			if !k.draining {
				drained = k.cur.Draining()
			}
		}
		var err error
		select {
		case <-k.ctx.Done():
			k.end(tunnel.OK, "the client was stopped")
			return context.Cause(k.ctx)
		case <-k.quit:
			return k.leave()
		case f := <-k.events:
			f()
		case <-done:
			k.lost()
		case <-drained:
			k.drained(k.cur.DrainInfo())
		case <-k.next.C:
			err = k.start()
		case <-ticker.C:
			k.checkPath()
			k.checkHealth()
			k.checkRenewal()
		case <-changes:
			k.checkPath()
		}
		if err == nil && k.cur == nil && k.attempt == nil {
			err = k.stays
		}
		if err != nil {
			k.end(tunnel.OK, "")
			return err
		}
	}
}

// beside runs f on a goroutine of its own; what f returns is done on this one.
func (k *keeper) beside(f func(ctx context.Context) func()) {
	k.work.Go(func() {
		then := f(k.ctx)
		select {
		case k.events <- then:
		case <-k.ctx.Done():
		}
	})
}

// start begins an attempt, unless one is under way.
func (k *keeper) start() error {
	if k.attempt != nil {
		return nil
	}
	if !k.giveUp.IsZero() && time.Now().After(k.giveUp) && k.cur == nil {
		return fmt.Errorf("the edge has gone and did not come back in the time that it said it would: %w", k.lastSeen)
	}
	only := k.cfg.Transport
	if k.wants == backHome {
		only = session.QUIC
	}
	ctx, cancel := context.WithCancel(k.ctx)
	a := &attempt{goal: k.wants, cancel: cancel}
	k.attempt = a
	if k.cur == nil {
		k.report(State{Phase: Connecting, Edge: k.cfg.Edge.Host, Reason: errText(k.lastSeen)})
	}
	small := k.small
	k.beside(func(context.Context) func() {
		c, err := k.connect(ctx, only, small)
		cancel()
		if k.ctx.Err() != nil && c != nil {
			c.CloseWith(tunnel.OK, "the client was stopped")
			return nil
		}
		return func() { k.finished(a, c, err) }
	})
	return nil
}

// again begins an attempt for g at once, in place of one that is under way.
func (k *keeper) again(g goal) {
	k.stop()
	k.after(g, 0)
}

// after has an attempt for g begin after a time.
func (k *keeper) after(g goal, wait time.Duration) {
	k.wants = g
	k.next.Reset(wait)
}

// finished takes what an attempt has brought.
func (k *keeper) finished(a *attempt, c carrier, err error) {
	if k.attempt != a {
		if c != nil {
			k.retire(c, false)
		}
		return
	}
	k.attempt = nil
	if err == nil {
		k.adopt(c)
		return
	}
	if k.ctx.Err() != nil {
		return
	}
	wait := max(k.backoff.next(), time.Until(k.earliest))
	switch {
	case k.cur == nil:
		k.lastSeen = err
		if why := permanent(err); why != nil {
			k.stays = why
			return
		}
		k.wait(wait, err)
	case k.newer:
	case a.goal == backHome && !k.draining:
		k.after(backHome, quicEvery)
	default:
		k.after(anyWay, max(wait, backoffBase))
	}
}

// adopt makes c the session that takes new flows. The one before ends when its flows have.
func (k *keeper) adopt(c carrier) {
	if k.cur != nil {
		k.retire(k.cur, k.health.unheard > 0 || k.health.failures > 0 || k.small)
	}
	k.cur, k.since = c, time.Now()
	k.draining, k.newer, k.stays, k.lastSeen = false, false, nil, nil
	k.earliest, k.giveUp = time.Time{}, time.Time{}
	k.health = health{lost: c.Stats().PacketsLost}
	k.small = k.small || c.Way().small
	k.setCurrent(c)
	k.path.source = k.parts.source(k.edgeAddr())
	k.renew.told(c.Welcome().RenewAfter)
	k.reportConnected("")
	k.next.Stop()
	if c.Way().transport == session.WebSocket && k.cfg.Transport == "" {
		k.after(backHome, quicEvery)
	}
}

// retire lets c end with its flows: it gets no new ones from now on. One that is suspect is ended when it does not answer.
func (k *keeper) retire(c carrier, suspect bool) {
	k.work.Go(func() {
		if suspect && !answers(k.ctx, c) {
			c.CloseWith(tunnel.Lost, "the session does not answer")
			return
		}
		ctx, cancel := context.WithTimeout(k.ctx, session.MaxDrain)
		defer cancel()
		c.Drain(ctx, "the client has another session")
		if k.ctx.Err() != nil {
			c.CloseWith(tunnel.OK, "the client was stopped")
		}
	})
}

// answers finds out whether large packets still pass on a session, too.
func answers(ctx context.Context, c carrier) bool {
	ctx, cancel := context.WithTimeout(ctx, lastPatience)
	defer cancel()
	_, err := c.Probe(ctx, largeProbe)
	return err == nil
}

// lost is what the end of the session does.
func (k *keeper) lost() {
	err := k.cur.Err()
	if time.Since(k.since) >= healthyAfter {
		k.backoff.reset()
	}
	k.cur, k.lastSeen = nil, err
	k.setCurrent(nil)
	k.stays = permanent(err)
	if k.newer {
		k.stays = ErrSuperseded
	}
	switch {
	case k.stays != nil && (k.attempt == nil || k.stays != ErrSuperseded):
		k.stop()
	case k.attempt != nil && (k.attempt.goal == anyWay || k.stays != nil):
		// What it is about to bring may be what has ended this one.
		k.report(State{Phase: Connecting, Edge: k.cfg.Edge.Host, Reason: errText(err)})
	case k.draining:
		k.wait(time.Until(k.earliest), err)
	default:
		k.stop()
		k.wait(k.backoff.next(), err)
	}
	k.draining = false
}

// stop gives an attempt up.
func (k *keeper) stop() {
	if k.attempt != nil {
		k.attempt.cancel()
		k.attempt = nil
	}
}

// wait has an attempt for any session begin later, and says so.
func (k *keeper) wait(wait time.Duration, why error) {
	wait = max(wait, 0)
	k.report(State{Phase: Reconnecting, Edge: k.cfg.Edge.Host, Reason: errText(why), Retry: wait})
	k.after(anyWay, wait)
}

// drained is what an edge's DRAIN does: the flows that there are go on, and new ones need another session.
func (k *keeper) drained(d wire.Drain) {
	k.draining = true
	k.lastSeen = &tunnel.Error{Code: d.Code, Text: d.Text}
	state := State{Phase: Draining, Transport: k.cur.Way().transport, Edge: k.cfg.Edge.Host, Reason: k.lastSeen.Error()}
	if d.Code == tunnel.Superseded {
		k.newer = true // unless it is us, who have an attempt under way
		k.next.Stop()
		state.Reason = ErrSuperseded.Error()
		k.report(state)
		return
	}
	// All clients of the edge were told the same.
	wait := d.ReconnectAfter + time.Duration(k.parts.random()*float64(max(backoffBase, d.ReconnectAfter/2)))
	k.earliest = time.Now().Add(wait)
	if d.GiveUpAfter > 0 {
		k.giveUp = k.earliest.Add(d.GiveUpAfter)
	}
	state.Retry = wait
	k.report(state)
	if k.attempt == nil {
		k.after(anyWay, wait)
	}
}

// end closes the session at once.
func (k *keeper) end(code tunnel.Code, text string) {
	k.stop()
	if k.cur != nil {
		k.cur.CloseWith(code, text)
		k.cur = nil
	}
}

// leave ends the session with its flows.
func (k *keeper) leave() error {
	k.stop()
	if k.cur == nil {
		return nil
	}
	k.report(State{Phase: Draining, Transport: k.cur.Way().transport, Edge: k.cfg.Edge.Host, Reason: "the client is about to stop"})
	ctx, cancel := context.WithTimeout(k.ctx, drainTime)
	defer cancel()
	k.cur.Drain(ctx, "the client is about to stop")
	k.end(tunnel.OK, "the client was stopped")
	return nil
}

// reportConnected says that there is a session, and what is wrong with it.
func (k *keeper) reportConnected(reason string) {
	state := State{Phase: Connected, Transport: k.cur.Way().transport, Edge: k.cfg.Edge.Host, Session: k.cur.Welcome().Session, RTT: k.cur.Stats().RTT, Reason: reason}
	if a := k.cur.Way().addr; a.IsValid() {
		state.Edge = a.String()
	}
	if reason != "" {
		state.Phase = Degraded
	}
	k.report(state)
}
