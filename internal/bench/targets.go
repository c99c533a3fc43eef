//go:build linux

package bench

import (
	"fmt"
	"slices"
	"strings"
)

// Target is one thing that a door should reach, and how far it got.
type Target struct {
	Subject string `json:"subject"` // the door
	What    string `json:"what"`
	Against string `json:"against"` // the subject that the figure is a ratio to; empty for an absolute one
	Unit    string `json:"unit"`    // empty for a ratio

	// Floor is what must be reached, Aim what should be. Less is better where Less is set.
	Floor float64 `json:"floor"`
	Aim   float64 `json:"aim"`
	Less  bool    `json:"less_is_better"`

	// Figure is what was measured, null where it was not. Shaky says that the samples behind it lie far apart; if those of
	// Against do, the figure is a ratio to the best of them.
	Figure Figure `json:"figure"`
	Shaky  bool   `json:"shaky"`
	// Result is "aim", "floor", "missed" or "not measured".
	Result string `json:"result"`
}

// bound is a floor and an aim.
type bound struct{ floor, aim float64 }

// goal is a target of both doors.
type goal struct {
	against, variant string
	metric, dir      string
	streams          int
	part             string // p99, or "over" for what is added to the value of against; else the value
	unit             string
	less             bool
	netstack, tproxy bound
	tunnel           string // the transport, where the door has a tunnel behind it
}

// itself stands in goal.against for the door without its tunnel.
const itself = "without tunnel"

// goals are the targets that weir is built to, door by door.
func goals() (out []goal) {
	for _, against := range []struct {
		name, variant    string
		streams          []int
		netstack, tproxy bound
	}{
		{"host", "", []int{1}, bound{0.4, 0.6}, bound{0.65, 0.8}},
		{"pasta", "", []int{1, 8}, bound{1, 2}, bound{1.5, 3}},
		{"gvisor-tap-vsock", "1500", []int{1, 8}, bound{4, 8}, bound{8, 15}},
	} {
		for _, streams := range against.streams {
			for _, dir := range []string{"up", "down"} {
				out = append(out, goal{against: against.name, variant: against.variant, metric: "throughput", dir: dir, streams: streams,
					netstack: against.netstack, tproxy: against.tproxy})
			}
		}
	}
	pasta := func(metric, dir string, streams int, netstack, tproxy bound) goal {
		return goal{against: "pasta", metric: metric, dir: dir, streams: streams, netstack: netstack, tproxy: tproxy}
	}
	for _, metric := range []string{"rr", "crr"} {
		for _, streams := range []int{1, 16} {
			out = append(out, pasta(metric, "", streams, bound{0.7, 1.1}, bound{0.9, 1.2}))
		}
	}
	for _, dir := range []string{"up", "down"} {
		out = append(out, pasta("udp_pps", dir, 1, bound{0.8, 1.5}, bound{0.8, 1.5}))
	}
	for _, streams := range []int{1, 16} {
		g := pasta("rr", "", streams, bound{1, 0.5}, bound{1, 0.5})
		g.part, g.less = "p99", true
		out = append(out, g)
	}
	return append(out,
		goal{against: "host", metric: "start_ms", part: "over", unit: "ms", less: true, netstack: bound{60, 25}, tproxy: bound{60, 25}},
		goal{metric: "rss_per_flow", unit: "kB", less: true, netstack: bound{25, 10}, tproxy: bound{12, 5}})
}

// tunnelGoals are those of a door with a tunnel behind it.
func tunnelGoals() (out []goal) {
	for _, streams := range []int{1, 8} {
		for _, dir := range []string{"up", "down"} {
			out = append(out,
				goal{tunnel: overQUIC, metric: "throughput", dir: dir, streams: streams, unit: "Gbit/s", netstack: bound{1.2, 2.2}, tproxy: bound{1.5, 2.5}},
				goal{tunnel: overWebSocket, metric: "throughput", dir: dir, streams: streams, unit: "Gbit/s", netstack: bound{0.4, 0.4}, tproxy: bound{0.4, 0.4}})
		}
	}
	out = append(out, goal{tunnel: overQUIC, against: itself, part: "over", metric: "connect_us", streams: 1, unit: "us", less: true,
		netstack: bound{1500, 1500}, tproxy: bound{1500, 1500}})
	for _, dir := range []string{"up", "down"} {
		for _, rate := range []int{40000, 100000} {
			out = append(out, goal{tunnel: overQUIC, metric: "udp_arrived", dir: dir, streams: rate, unit: "%", netstack: bound{99, 99}, tproxy: bound{99, 99}})
		}
	}
	for _, side := range []string{"hosted", "user"} {
		out = append(out,
			goal{tunnel: overQUIC, metric: "idle_cpu", dir: side, streams: idleFlows, unit: "%", less: true, netstack: bound{2, 2}, tproxy: bound{2, 2}},
			goal{tunnel: overQUIC, metric: "idle_rss", dir: side, streams: idleFlows, unit: "MB", less: true, netstack: bound{40, 40}, tproxy: bound{40, 40}})
	}
	return out
}

// idleFlows is how many idle flows the targets of a tunnel speak of.
const idleFlows = 1000

// targets holds the doors of the first build against their goals.
func (res *Result) targets() (out []Target) {
	for _, g := range append(goals(), tunnelGoals()...) {
		for _, door := range []struct {
			name string
			is   bound
		}{{"netstack", g.netstack}, {"tproxy", g.tproxy}} {
			t := Target{Subject: g.subject(door.name).Label(), What: g.title(), Against: g.againstLabel(), Unit: g.unit, Floor: door.is.floor, Aim: door.is.aim, Less: g.less}
			t.Figure, t.Shaky = res.figure(door.name, g)
			t.judge()
			out = append(out, t)
		}
	}
	return out
}

// subject is what the goal is about, for one of the doors.
func (g goal) subject(door string) *Subject {
	if g.tunnel == "" {
		return &Subject{Name: door}
	}
	return &Subject{Name: tunnelPrefix + door, Variant: strings.TrimPrefix(g.tunnel, overQUIC)}
}

// figure is 0 where something that it needs was not measured.
func (res *Result) figure(door string, g goal) (Figure, bool) {
	key := (&Row{Metric: g.metric, Direction: g.dir, Streams: g.streams}).key()
	row := func(name, variant string) *Row {
		if s := res.subject(name, variant); s != nil {
			return res.find(s, key)
		}
		return nil
	}
	me := g.subject(door)
	mine := row(me.Name, me.Variant)
	if mine == nil {
		return 0, false
	}
	if g.against == "" {
		return Figure(mine.Value), mine.shaky()
	}
	other := row(g.against, g.variant)
	if g.against == itself {
		other = row(door, "")
	}
	if other == nil {
		return 0, false
	}
	a, b := mine.Value, other.Value
	switch {
	case g.part == "over":
		return Figure(a - b), false // of many starts the slowest says little
	case g.part == "p99":
		a, b = float64(mine.P99), float64(other.P99)
		if other.shaky() {
			b = slices.Min(other.p99s)
		}
	case other.shaky(): // a peer that stalls is no measure, so that its best is taken: never to our advantage
		b = slices.Max(other.Samples)
	}
	if b == 0 {
		return 0, false
	}
	return Figure(a / b), mine.shaky() || other.shaky()
}

func (t *Target) judge() {
	reached := func(bound float64) bool {
		return t.Figure != 0 && (float64(t.Figure) >= bound) != t.Less || float64(t.Figure) == bound
	}
	switch {
	case t.Figure == 0:
		t.Result = "not measured"
	case reached(t.Aim):
		t.Result = "aim"
	case reached(t.Floor):
		t.Result = "floor"
	default:
		t.Result = "missed"
	}
}

func (g goal) title() string {
	title := (&Row{Metric: g.metric, Direction: g.dir, Streams: g.streams}).Title()
	switch {
	case g.tunnel == overWebSocket:
		title = "tunnel over WebSocket, " + title
	case g.tunnel != "":
		title = "tunnel, " + title
	}
	switch g.part {
	case "p99":
		return title + ", p99"
	case "over":
		if g.against != itself {
			title += ", over a plain exec"
		} else {
			title += ", added"
		}
	}
	return title
}

func (g goal) againstLabel() string {
	if g.part == "over" {
		return ""
	}
	return (&Subject{Name: g.against, Variant: g.variant}).Label()
}

// targetGrid is the table of the targets as cells, a door's beside the other's; nil if none of them was measured.
func (res *Result) targetGrid() [][]string {
	out := [][]string{{"target", "against", "netstack", "floor / aim", "", "tproxy", "floor / aim", ""}}
	for i := 0; i+1 < len(res.Targets); i += 2 {
		a, b := res.Targets[i], res.Targets[i+1]
		if a.Figure == 0 && b.Figure == 0 {
			continue
		}
		what := a.What
		if a.Unit != "" {
			what += ", " + a.Unit
		}
		out = append(out, append(append([]string{what, a.Against}, a.cells()...), b.cells()...))
	}
	if len(out) == 1 {
		return nil
	}
	return out
}

func (t *Target) cells() []string {
	figure := number(float64(t.Figure), t.Figure != 0)
	if t.Shaky {
		figure = "~" + figure
	}
	return []string{figure, fmt.Sprintf("%g / %g", t.Floor, t.Aim), map[string]string{"aim": "aim met", "floor": "floor met", "missed": "MISSED"}[t.Result]}
}
