package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/weir-dev/weir/internal/hostname"
)

// MaxEvent is the longest line that Observe reads, in octets.
const MaxEvent = 64 << 10

// MaxNames bounds how many names of one event are kept.
const MaxNames = 64

// Observation is what one event says about one flow or one question.
type Observation struct {
	App   string
	Count int // how often it was seen; 0 counts as 1

	Question bool     // a DNS question for Names[0], not a flow
	Names    []string // evidence: names bound to Addr that the program asked for
	Claim    string   // name in the flow's first bytes; "" if none
	Addr     netip.Addr
	Port     uint16
	Proto    Proto
	Route    string

	Verdict, Reason, Rule string // as recorded
	First                 time.Time
	Process               string // command line, "" if not known
}

// line is the part of an event that Observe reads; contract section 5.
type line struct {
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`
	App     string    `json:"app"`
	Details struct {
		Hostname   string   `json:"hostname"`
		NameSource string   `json:"name_source"`
		Names      []string `json:"names"`
		DestIP     string   `json:"dest_ip"`
		DestPort   uint16   `json:"dest_port"`
		Protocol   string   `json:"protocol"`
		Route      string   `json:"route"`
		Verdict    string   `json:"verdict"`
		Rule       string   `json:"rule"`
		Reason     string   `json:"reason"`
		SNI        string   `json:"sni"`
		HTTPHost   string   `json:"http_host"`
		Direction  string   `json:"direction"`
		Process    *struct {
			Exe  string   `json:"exe"`
			Args []string `json:"args"`
		} `json:"process"`
	} `json:"details"`
}

// Observe reads one line of the event log. ok is false for events that teach nothing: of other kinds, of flows that
// came in, of names that weir answers itself. An error is a line that is no event or whose flow makes no sense.
func Observe(text []byte) (o Observation, ok bool, err error) {
	if len(text) > MaxEvent {
		return o, false, fmt.Errorf("event is %d octets long, at most %d are allowed", len(text), MaxEvent)
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return o, false, fmt.Errorf("parse event: %w", err)
	}
	o = Observation{
		App: l.App, Count: 1, First: l.Time, Route: l.Details.Route,
		Verdict: l.Details.Verdict, Reason: l.Details.Reason, Rule: l.Details.Rule,
	}
	switch {
	case l.Event == "dns-query":
		return o.question(l)
	case l.Event == "network-connect" && l.Details.Direction != "in":
		return o.flow(l)
	}
	return o, false, nil
}

func (o Observation) question(l line) (Observation, bool, error) {
	o.Question = true
	n, err := hostname.Labels(l.Details.Hostname)
	if err != nil {
		return o, false, nil // nothing that a rule could be written for: the root, names of odd octets
	}
	n = hostname.Owner(n)
	if n == HostName || n == "localhost" || hostname.Under(n, "localhost") {
		return o, false, nil
	}
	if _, err := hostname.Normalize(n); err != nil {
		return o, false, nil
	}
	o.Names = []string{n}
	return o, true, nil
}

func (o Observation) flow(l line) (Observation, bool, error) {
	d := l.Details
	addr, err := netip.ParseAddr(d.DestIP)
	if err != nil {
		return o, false, fmt.Errorf("parse event: dest_ip: %w", err)
	}
	o.Addr, o.Port = addr.Unmap().WithZone(""), d.DestPort
	switch d.Protocol {
	case "tcp":
		o.Proto = TCP
	case "udp":
		o.Proto = UDP
	case "icmp":
		o.Proto, o.Port = ICMP, 0
	default:
		return o, false, fmt.Errorf("parse event: unknown protocol %q", d.Protocol)
	}
	if o.Port == 0 && o.Proto != ICMP {
		return o, false, errors.New("parse event: dest_port is missing")
	}
	names := d.Names
	if d.NameSource == "dns" {
		names = append(names, d.Hostname)
	}
	for _, n := range names[:min(len(names), MaxNames)] {
		if n, err := hostname.Normalize(n); err == nil {
			o.Names = appendNew(o.Names, hostname.Owner(n))
		}
	}
	for _, claim := range []string{d.SNI, d.HTTPHost} {
		if n, err := hostname.Normalize(claim); err == nil {
			o.Claim = n
			break
		}
	}
	if o.Claim == "" && d.NameSource != "dns" && d.NameSource != "none" {
		o.Claim, _ = hostname.Normalize(d.Hostname)
	}
	if p := d.Process; p != nil {
		o.Process = p.Exe
		if len(p.Args) > 0 {
			o.Process = strings.Join(p.Args, " ")
		}
	}
	return o, true, nil
}

// DecideObserved judges a recorded flow or question again, as it was seen.
func (p *Policy) DecideObserved(o Observation) (v Verdict, reason, rule string) {
	if o.Question {
		d := p.DecideName(o.Names[0], 0)
		return d.Verdict, d.Reason, d.Rule
	}
	network := map[Proto]string{TCP: "tcp", UDP: "udp", ICMP: "icmp"}[o.Proto]
	d := p.Decide(Question{Network: network, Dst: netip.AddrPortFrom(o.Addr, o.Port), Asked: o.Names, Claim: o.Claim, Final: true})
	return d.Verdict, d.Reason, d.Rule
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}
