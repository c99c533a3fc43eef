//go:build linux && !client

package main

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
)

// withoutExpansions leaves out the questions that nobody asked on purpose.
type withoutExpansions struct{ event.Sink }

func (w withoutExpansions) Emit(e *event.Event) {
	if q, ok := e.Details.(*event.DNSQuery); ok && q.Rule == expansionRule {
		return
	}
	w.Sink.Emit(e)
}

// countedDenials adds up the denials that are news: not those that a deny rule asked for.
func countedDenials(byReason map[string]uint64) (n uint64) {
	for reason, count := range byReason {
		if reason != policy.ReasonRule {
			n += count
		}
	}
	return n
}

// notices are the lines on stderr for denials, one for each distinct one.
type notices struct {
	ui     *ui
	policy *policy.Policy
	said   atomic.Int64
}

// maxNotices bounds the lines of one run: a program that scans ports must not bury the terminal.
const maxNotices = 100

// say is for a line that is one of those.
func (n *notices) say(format string, args ...any) {
	if n.mayTell() {
		n.ui.sayf(format, args...)
	}
}

// mayTell counts a line, and says once that there are no more.
func (n *notices) mayTell() bool {
	said := n.said.Add(1)
	if said == maxNotices+1 {
		n.ui.sayf("more was denied; the event log has all of it")
	}
	return said <= maxNotices
}

func (n *notices) denied(e *event.Event) {
	if !n.mayTell() {
		return
	}
	switch d := e.Details.(type) {
	case *event.Connect:
		n.flow(d.Hostname, d.Reason, d.Rule, policy.Question{Network: d.Protocol, Dst: d.Dst, Asked: d.Names, Claim: firstOf(d.SNI, d.HTTPHost)})
	case *event.Close:
		n.flow(d.Hostname, d.Reason, d.Rule, policy.Question{Network: d.Protocol, Dst: d.Dst, Claim: d.Hostname})
	case *event.DNSQuery:
		if d.Reason == policy.ReasonDNSBlocked {
			n.ui.sayf("denied %s (%s); allow it with --allow %s", d.Hostname, d.Reason, d.Hostname)
			return
		}
		shown := d.Hostname
		if shown == "" { // a message that is no question
			shown = "a question to " + d.Server
		}
		n.ui.sayf("denied %s (%s)%s", shown, d.Reason, noClient(d.Reason, d.Rule))
	}
}

func (n *notices) flow(name, reason, because string, q policy.Question) {
	shown := q.Dst.String()
	switch {
	case q.Network == "icmp":
		shown = "ping " + firstOf(name, q.Dst.Addr().String())
	case name != "":
		shown = name + ":" + strconv.Itoa(int(q.Dst.Port()))
	}
	rule := ""
	if reason != "limit" && reason != "no-tunnel" {
		rule = n.policy.Hint(q, policy.Decision{Verdict: policy.Deny, Reason: reason})
	}
	switch {
	case rule == "":
		n.ui.sayf("denied %s (%s)%s", shown, reason, noClient(reason, because))
	case q.Dst.Addr().IsLoopback() && q.Network == "tcp":
		n.ui.sayf("denied %s (%s); allow it with --host-port %d", shown, reason, q.Dst.Port())
	case n.policy.Mode() == policy.ModeAudit: // a rule alone would mean enforce, and deny all that passes now
		n.ui.sayf("denied %s (%s); allow it with --mode audit --allow %s", shown, reason, rule)
	default:
		n.ui.sayf("denied %s (%s); allow it with --allow %s", shown, reason, rule)
	}
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// firstSeen notices the hosts that an app was never seen with before.
type firstSeen struct {
	mu    sync.Mutex
	known map[string]bool
	new   []string
	alert func(host string)
}

func newFirstSeen(known []string, alert func(string)) *firstSeen {
	f := &firstSeen{known: make(map[string]bool, len(known)), alert: alert}
	for _, host := range known {
		f.known[host] = true
	}
	return f
}

// Emit implements event.Sink.
func (f *firstSeen) Emit(e *event.Event) {
	c, ok := e.Details.(*event.Connect)
	if !ok || c.Verdict == "deny" {
		return
	}
	host := c.Hostname
	if host == "" {
		host = c.Dst.Addr().String()
	}
	f.mu.Lock()
	unseen := !f.known[host] && len(f.known) < maxFirstSeen
	if unseen {
		f.known[host] = true
		f.new = append(f.new, host)
	}
	f.mu.Unlock()
	if unseen {
		f.alert(host)
	}
}

func (f *firstSeen) fresh() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.new
}

// maxObserved bounds the different things that a run can teach, maxObservedOctets what they take together.
const (
	maxObserved       = 20000
	maxObservedOctets = 16 << 20
)

// learner keeps what a run did, for the policy that allows just that. What is done again is counted.
type learner struct {
	mu       sync.Mutex
	observed []policy.Observation
	index    map[string]int
	octets   int
	lost     int
}

// Emit implements event.Sink.
func (l *learner) Emit(e *event.Event) {
	switch e.Details.(type) {
	case *event.Connect, *event.DNSQuery, *event.SandboxStart:
	default:
		return
	}
	o, ok, err := policy.Observe(e.AppendJSON(nil))
	if err != nil || !ok {
		return
	}
	key := o
	key.First = time.Time{}
	text := fmt.Sprintf("%+v", key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if i, known := l.index[text]; known {
		l.observed[i].Count++
		return
	}
	if len(l.observed) >= maxObserved || l.octets+2*len(text) > maxObservedOctets {
		l.lost++
		return
	}
	if l.index == nil {
		l.index = map[string]int{}
	}
	l.index[text] = len(l.observed)
	l.octets += 2 * len(text)
	l.observed = append(l.observed, o)
}

// policy is the text of the file that allows what was seen and nothing else.
func (l *learner) policy(cfg dataPathConfig) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := string(policy.Suggest(l.observed).YAML())
	if l.lost > 0 {
		text = fmt.Sprintf("# %d more flows and questions were seen than could be kept: this policy is too narrow\n", l.lost) + text
	}
	return text
}
