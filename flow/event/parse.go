package event

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// wire is every field that a line may have, in the form in which it travels.
type wire struct {
	Time    time.Time       `json:"time"`
	Event   Kind            `json:"event"`
	App     string          `json:"app"`
	Sandbox string          `json:"sandbox"`
	Flow    string          `json:"flow"`
	Details json.RawMessage `json:"details"`
}

type wireDetails struct {
	Hostname   string   `json:"hostname"`
	NameSource string   `json:"name_source"`
	Names      []string `json:"names"`
	DestIP     string   `json:"dest_ip"`
	DestPort   uint16   `json:"dest_port"`
	SrcIP      string   `json:"src_ip"`
	SrcPort    uint16   `json:"src_port"`
	Protocol   string   `json:"protocol"`
	Route      string   `json:"route"`
	Client     string   `json:"client"`
	Verdict    string   `json:"verdict"`
	Rule       string   `json:"rule"`
	Reason     string   `json:"reason"`
	Door       string   `json:"door"`
	SNI        string   `json:"sni"`
	HTTPHost   string   `json:"http_host"`
	ALPN       []string `json:"alpn"`
	ECH        bool     `json:"ech"`
	Process    *struct {
		PID  int      `json:"pid"`
		Exe  string   `json:"exe"`
		Args []string `json:"args"`
	} `json:"process"`

	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`
	Milliseconds  int64  `json:"duration_ms"`
	Close         string `json:"close"`
	Error         string `json:"error"`
	Direction     string `json:"direction"`

	QType   string   `json:"qtype"`
	Server  string   `json:"server"`
	RCode   string   `json:"rcode"`
	Answers []string `json:"answers"`

	Command []string `json:"command"`
	Link    string   `json:"link"`
	Policy  string   `json:"policy"`
	Mode    string   `json:"mode"`
	Held    []string `json:"held"`
	Status  int      `json:"status"`

	Transport string `json:"transport"`
	Remote    string `json:"remote"`
	Session   string `json:"session"`

	Kind    string          `json:"kind"`
	Subject string          `json:"subject"`
	What    string          `json:"what"`
	Count   uint64          `json:"count"`
	ByKind  map[Kind]uint64 `json:"by_kind"`
}

// Parse reads one line of an event log. Fields it does not know are ignored; a kind it does not know leaves Details nil.
// Strings come back as they were, except that octets which were not UTF-8 stay the text \xNN, that secrets stay masked
// and long strings cut.
func Parse(line []byte) (*Event, error) {
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return nil, fmt.Errorf("parse event: %w", err)
	}
	if w.Event == "" {
		return nil, fmt.Errorf("parse event: the line has no field %q", "event")
	}
	e := &Event{Time: w.Time, Kind: w.Event, App: w.App, Sandbox: w.Sandbox, Flow: w.Flow}
	if slot(e.Kind) == kindSlots-1 {
		return e, nil
	}
	var d wireDetails
	if len(w.Details) > 0 {
		if err := json.Unmarshal(w.Details, &d); err != nil {
			return nil, fmt.Errorf("parse %s event: %w", w.Event, err)
		}
	}
	var err error
	if e.Details, err = d.details(e.Kind); err != nil {
		return nil, fmt.Errorf("parse %s event: %w", w.Event, err)
	}
	return e, nil
}

func (d *wireDetails) details(k Kind) (Details, error) {
	took := time.Duration(d.Milliseconds) * time.Millisecond
	dst, err := endpoint(d.DestIP, d.DestPort)
	if err != nil {
		return nil, err
	}
	switch k {
	case KindConnect:
		return d.connect(dst)
	case KindClose:
		return &Close{Hostname: d.Hostname, Dst: dst, Protocol: d.Protocol, Route: d.Route, Client: d.Client, Verdict: d.Verdict,
			BytesSent: d.BytesSent, BytesReceived: d.BytesReceived, Duration: took, Close: d.Close,
			Rule: d.Rule, Reason: d.Reason, Error: d.Error}, nil
	case KindDNSQuery:
		return &DNSQuery{Hostname: d.Hostname, QType: d.QType, Server: d.Server, RCode: d.RCode, Answers: d.Answers,
			Route: d.Route, Client: d.Client, Verdict: d.Verdict, Rule: d.Rule, Reason: d.Reason, Duration: took}, nil
	case KindSandboxStart:
		return &SandboxStart{Command: d.Command, Door: d.Door, Link: d.Link, Policy: d.Policy, Mode: d.Mode, Held: d.Held}, nil
	case KindSandboxExit:
		return &SandboxExit{Command: d.Command, Door: d.Door, Link: d.Link, Policy: d.Policy, Mode: d.Mode, Status: d.Status,
			Duration: took}, nil
	case KindTunnelUp, KindTunnelDown:
		return &Tunnel{Up: k == KindTunnelUp, Client: d.Client, Transport: d.Transport, Remote: d.Remote, Session: d.Session, Reason: d.Reason}, nil
	case KindAlert:
		return &Alert{What: d.Kind, Subject: d.Subject}, nil
	}
	dropped := &Dropped{What: d.What, Count: d.Count}
	for kind, n := range d.ByKind {
		dropped.ByKind = append(dropped.ByKind, KindCount{Kind: kind, Count: n})
	}
	slices.SortFunc(dropped.ByKind, func(a, b KindCount) int { return slot(a.Kind) - slot(b.Kind) })
	return dropped, nil
}

func (d *wireDetails) connect(dst netip.AddrPort) (Details, error) {
	src, err := endpoint(d.SrcIP, d.SrcPort)
	if err != nil {
		return nil, err
	}
	c := &Connect{Hostname: d.Hostname, NameSource: d.NameSource, Names: d.Names, Dst: dst, Src: src, Protocol: d.Protocol,
		Route: d.Route, Client: d.Client, Verdict: d.Verdict, Rule: d.Rule, Reason: d.Reason, Door: d.Door, SNI: d.SNI, HTTPHost: d.HTTPHost,
		ALPN: d.ALPN, ECH: d.ECH, Inbound: d.Direction == "in"}
	if d.Process != nil {
		c.Process = &Process{PID: d.Process.PID, Exe: d.Process.Exe, Args: d.Process.Args}
	}
	return c, nil
}

func endpoint(ip string, port uint16) (netip.AddrPort, error) {
	if ip == "" {
		return netip.AddrPortFrom(netip.Addr{}, port), nil
	}
	a, err := netip.ParseAddr(ip)
	return netip.AddrPortFrom(a, port), err
}
