package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel/client"
)

// How often the picture is made anew: at the latest after showEvery, and after what happened no sooner than showPause.
const (
	showEvery = 500 * time.Millisecond
	showPause = 50 * time.Millisecond
)

// maxRecent is how many lines of what happened are kept; deafFor how long a question hears no key, so that what was typed for
// something else answers nothing.
const (
	maxRecent = 64
	deafFor   = 400 * time.Millisecond
)

// tunnelEnd is what a display shows and steers: the parts of "weir connect".
type tunnelEnd struct {
	who, edge string
	handler   *client.Handler
	state     func() client.State
	quit      func(now bool) // drain, and at once when asked again; or at once
	maxFlows  int
	audit     bool
}

// display shows the tunnel on a terminal. It is an event.Sink, and asks the user.
type display struct {
	end   tunnelEnd
	color bool

	mu       sync.Mutex
	recent   []string
	denied   uint64
	sent     uint64 // of flows that have ended
	received uint64
	wake     chan struct{}

	questions chan *question
	keys      chan key
}

// question waits for a key.
type question struct {
	ctx    context.Context
	prompt client.Prompt
	answer chan client.Answer
	shown  time.Time
}

func newDisplay(color bool) *display {
	return &display{color: color, wake: make(chan struct{}, 1), questions: make(chan *question), keys: make(chan key, 64)}
}

// Emit implements event.Sink.
func (d *display) Emit(e *event.Event) {
	line := ""
	d.mu.Lock()
	switch det := e.Details.(type) {
	case *event.Connect:
		if det.Verdict != "allow" {
			line = told(e)
		}
		if det.Verdict == "deny" {
			d.denied++
		}
	case *event.DNSQuery:
		if det.Verdict != "allow" {
			line = told(e)
		}
		if det.Verdict == "deny" {
			d.denied++
		}
	case *event.Close:
		d.sent += det.BytesSent
		d.received += det.BytesReceived
		if det.Close != "fin" {
			line = told(e)
		}
	default:
		line = told(e)
	}
	d.note(line)
	d.mu.Unlock()
	d.nudge()
}

// note adds a line to what happened lately; the lock is held. The same thing again counts.
func (d *display) note(line string) {
	if line == "" {
		return
	}
	if len(d.recent) >= maxRecent {
		d.recent = d.recent[1:]
	}
	d.recent = append(d.recent, line)
}

func (d *display) nudge() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// ask puts a question to whoever sits before the terminal.
func (d *display) ask(ctx context.Context, p client.Prompt) (client.Answer, error) {
	q := &question{ctx: ctx, prompt: p, answer: make(chan client.Answer, 1)}
	select {
	case d.questions <- q:
	case <-ctx.Done():
		return client.Refuse, fmt.Errorf("ask: %w", ctx.Err())
	}
	select {
	case a := <-q.answer:
		return a, nil
	case <-ctx.Done():
		d.nudge()
		return client.Refuse, fmt.Errorf("ask: %w", ctx.Err())
	}
}

// screenLike is a screen, or what a test has for one.
type screenLike interface {
	show(lines []string)
	size() (width, height int)
}

// run shows the tunnel until ctx ends. It is the only one that paints.
func (d *display) run(ctx context.Context, s screenLike) {
	v := &view{color: d.color}
	var q *question
	tick := time.NewTicker(showEvery)
	defer tick.Stop()
	for {
		if q != nil && q.ctx.Err() != nil {
			q = nil
		}
		questions := d.questions
		if q != nil {
			questions = nil // one at a time
		}
		d.fill(v, q)
		width, height := s.size()
		s.show(v.lines(width, height))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-d.wake:
			pause(ctx, showPause)
		case q = <-questions:
			q.shown = time.Now()
		case k, ok := <-d.keys:
			if !ok {
				d.end.quit(true)
				d.keys = nil
				continue
			}
			if k == keyRedraw {
				if again, ok := s.(*screen); ok {
					again.last = ""
				}
				continue
			}
			if q != nil && k != keyInterrupt {
				if d.answer(q, k) {
					q = nil
				}
				continue
			}
			d.press(v, k)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// fill brings a view up to date.
func (d *display) fill(v *view, q *question) {
	state := d.end.state()
	v.who, v.edge, v.audit, v.max = d.end.who, d.end.edge, d.end.audit, d.end.maxFlows
	v.state, v.detail, v.well = string(state.Phase), stateDetail(state), state.Phase == client.Connected
	v.flows, v.paused, v.now = d.end.handler.Flows(), d.end.handler.Paused(), time.Now()
	d.mu.Lock()
	v.denied, v.sent, v.received = d.denied, d.sent, d.received
	v.recent = append(v.recent[:0], d.recent...)
	d.mu.Unlock()
	for _, f := range v.flows {
		v.sent += f.Sent
		v.received += f.Received
	}
	if !hasFlow(v.flows, v.selected) {
		v.selected = 0
		if list := v.sorted(); len(list) > 0 {
			v.selected = list[0].ID
		}
	}
	v.prompt = nil
	if q != nil {
		v.prompt = promptLines(q.prompt)
	}
}

func hasFlow(list []client.Flow, id uint64) bool {
	for _, f := range list {
		if f.ID == id {
			return true
		}
	}
	return false
}

// stateDetail is how the tunnel does, in a few words.
func stateDetail(s client.State) string {
	var parts []string
	if s.Transport != "" {
		parts = append(parts, s.Transport)
	}
	if s.RTT > 0 {
		parts = append(parts, fmt.Sprintf("%.1f ms", s.RTT.Seconds()*1000))
	}
	if s.Retry > 0 {
		parts = append(parts, "again in "+s.Retry.Round(time.Second).String())
	}
	if s.Reason != "" {
		parts = append(parts, s.Reason)
	}
	return strings.Join(parts, ", ")
}

// press does what a key stands for.
func (d *display) press(v *view, k key) {
	v.help = v.help && (k == '?' || k == keyInterrupt)
	switch k {
	case keyUp:
		v.move(-1)
	case keyDown:
		v.move(1)
	case keyPageUp:
		v.move(-10)
	case keyPageDown:
		v.move(10)
	case keyHome:
		v.move(-1 << 30)
	case keyEnd:
		v.move(1 << 30)
	case 'k':
		d.end.handler.Kill(v.selected)
	case 'p':
		d.end.handler.Pause(!d.end.handler.Paused())
	case 's':
		v.order = (v.order + 1) % orders
	case 'c':
		d.end.handler.Resume()
	case '?':
		v.help = !v.help
	case 'q':
		d.end.quit(false)
	case keyInterrupt:
		d.end.quit(true)
	}
}

// move selects another row.
func (v *view) move(by int) {
	list := v.sorted()
	for i, f := range list {
		if f.ID == v.selected {
			v.selected = list[max(0, min(len(list)-1, i+by))].ID
			return
		}
	}
}

// answer takes a key for the answer to a question, if it is one.
func (d *display) answer(q *question, k key) bool {
	if time.Since(q.shown) < deafFor {
		return false
	}
	a, ok := answerOf(k)
	if ok {
		q.answer <- a
	}
	return ok
}

func answerOf(k key) (client.Answer, bool) {
	switch k {
	case 'o', 'O':
		return client.Once, true
	case 'r', 'R':
		return client.ThisRun, true
	case 'a', 'A':
		return client.Always, true
	case 'n', 'N', 'd', 'D', keyEscape:
		return client.Refuse, true
	}
	return client.Refuse, false
}

// promptLines is a question in words.
func promptLines(p client.Prompt) []string {
	app := cell(p.App)
	if app == "" {
		app = "a program without a name"
	}
	if p.Network == "dns" {
		return []string{
			app + " wants to look up " + cell(p.Name), "",
			"  o  only now", "  r  as long as this command runs", "  a  always: writes " + cell(p.Rule), "  n  no (and so does silence)",
		}
	}
	lines := []string{app + " wants to connect to " + cell(p.Addr.String()) + " by " + cell(p.Network)}
	switch {
	case p.Name == "":
		lines = append(lines, "  it has no name here")
	case p.Confirmed:
		lines = append(lines, "  which is "+cell(p.Name)+", as this machine's own resolver says")
	default:
		lines = append(lines, "  the hosted side says that it is "+cell(p.Name)+"; THIS MACHINE'S RESOLVER DOES NOT")
	}
	return append(lines, "  o  only now", "  r  as long as this command runs", "  a  always: writes "+cell(p.Rule), "  n  no (and so does silence)")
}
