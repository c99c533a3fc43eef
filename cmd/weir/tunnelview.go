package main

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel/client"
)

// view is one picture of "weir connect" on a terminal. Everything in it that others chose becomes printable ASCII here, and
// nowhere later: a cell is as wide as it has octets, and nothing in it steers the terminal or turns around what stands beside.
type view struct {
	who, edge string // the client, and where it is connected
	state     string // connected, reconnecting ...
	well      bool
	detail    string // transport and round trip, or what is wrong
	audit     bool
	paused    bool

	flows    []client.Flow
	max      int // flows that may be open
	order    sortOrder
	selected uint64 // id of a flow
	top      int    // first row that is shown

	denied   uint64
	sent     uint64 // octets, all flows so far
	received uint64

	recent []string // what happened lately, the newest last; hostile text in it is escaped already
	prompt []string // a question that takes the place of what happened lately
	help   bool
	now    time.Time
	color  bool
}

// sortOrder is how the table is sorted.
type sortOrder int

const (
	byAge sortOrder = iota // the newest first
	byBytes
	byApp
	orders
)

func (o sortOrder) String() string { return [...]string{"age", "bytes", "app"}[o] }

// The least and the most that a part of the picture takes, in columns and lines.
const (
	leastWidth  = 40
	leastHeight = 8
	recentLines = 5
)

// cell makes text printable ASCII: what [event.Escape] leaves of other characters may be two columns wide, or none.
func cell(s string) string {
	s = event.Escape(s)
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return strings.Trim(strconv.QuoteToASCII(s), `"`)
		}
	}
	return s
}

// sorted returns the flows in the order of the table.
func (v *view) sorted() []client.Flow {
	list := slices.Clone(v.flows)
	slices.SortStableFunc(list, func(a, b client.Flow) int {
		switch v.order {
		case byBytes:
			if c := cmp.Compare(b.Sent+b.Received, a.Sent+a.Received); c != 0 {
				return c
			}
		case byApp:
			if c := cmp.Or(cmp.Compare(a.Owner.App, b.Owner.App), cmp.Compare(a.Name, b.Name)); c != 0 {
				return c
			}
		}
		return cmp.Compare(b.ID, a.ID)
	})
	return list
}

// lines returns the picture: height lines of at most width columns.
func (v *view) lines(width, height int) []string {
	if width < leastWidth || height < leastHeight {
		return []string{clip("weir: the window is too small", width)}
	}
	out := v.head(width)
	foot := v.foot(width)
	room := height - len(out) - len(foot) - 1
	if v.help {
		out = append(out, fill(helpLines(), room+1, width)...)
	} else {
		out = append(out, v.table(width, room)...)
	}
	for len(out) < height-len(foot) {
		out = append(out, "")
	}
	return append(out, foot...)
}

func (v *view) head(width int) []string {
	state := v.state
	if v.color {
		color := "33"
		if v.well {
			color = "32"
		}
		state = "\x1b[" + color + "m" + state + "\x1b[0m"
	}
	first := clip("weir  "+cell(v.who)+"  "+cell(v.edge), width-len(v.state)-2)
	line := first + "  " + state
	if rest := width - len(first) - 2 - len(v.state) - 2; rest > 8 && v.detail != "" {
		line += "  " + clip(cell(v.detail), rest)
	}
	marks := ""
	if v.paused {
		marks += "PAUSED (p goes on)  "
	}
	if v.audit {
		marks += "AUDIT (only guarded addresses are denied)  "
	}
	second := fmt.Sprintf("%d of %d flows  %s up  %s down  %d denied  by %s", len(v.flows), v.max, octets(v.sent), octets(v.received), v.denied, v.order)
	return []string{line, clip(marks+second, width), ""}
}

// The columns of the table, and how wide they are where there is room, so that they stay where they are.
var (
	tableHead = [columns]string{"APP", "DESTINATION", "ADDRESS", "UP", "DOWN", "AGE", "RULE"}
	usual     = [columns]int{10, 24, 21, 8, 8, 6, 8}
)

const (
	colApp = iota
	colName
	colAddr
	colUp
	colDown
	colAge
	colRule
	columns
)

// table returns the head and at most room rows, with the selected one among them.
func (v *view) table(width, room int) []string {
	list := v.sorted()
	rows := make([][columns]string, len(list))
	at := 0
	for i, f := range list {
		rows[i] = row(f, v.now)
		if f.ID == v.selected {
			at = i
		}
	}
	v.top = max(min(v.top, at, len(list)-room), at-room+1, 0)
	widths := fit(rows, width-2)
	out := []string{"  " + join(tableHead, widths)}
	for i := v.top; i < min(v.top+room, len(rows)); i++ {
		line := join(rows[i], widths)
		switch {
		case i == at && v.color:
			line = "> \x1b[7m" + line + "\x1b[0m"
		case i == at:
			line = "> " + line
		default:
			line = "  " + line
		}
		out = append(out, line)
	}
	if len(list) == 0 && room > 1 {
		out = append(out, "", "  no flow is open")
	}
	return out
}

// row is a flow as text.
func row(f client.Flow, now time.Time) [columns]string {
	name := "-"
	if f.Name != "" {
		name = cell(f.Name)
		if !f.Confirmed {
			name = "?" + name // the hosted side says so, and nobody else
		}
	}
	addr := f.Addr.String()
	if f.Network == "udp" {
		addr += "/udp"
	}
	rule := cell(f.Rule)
	switch {
	case f.WaitsForTunnel:
		rule = "waits for the tunnel"
	case f.Verdict != "allow":
		rule = cell(f.Verdict)
	}
	return [columns]string{cell(f.Owner.App), name, addr, octets(f.Sent), octets(f.Received), age(now.Sub(f.Began)), rule}
}

// hidden is the width of a column for which there is no room.
const hidden = -1

// fit returns the width of each column. Names give way first, then apps and rules, then whole columns: a number that is cut is
// another number.
func fit(rows [][columns]string, width int) (widths [columns]int) {
	total := -columnGap
	for i := range columns {
		widths[i] = usual[i]
		for _, r := range rows {
			widths[i] = max(widths[i], len(r[i]))
		}
		total += widths[i] + columnGap
	}
	for _, give := range []struct{ column, least int }{
		{colName, 16}, {colRule, 6}, {colApp, 6}, {colAddr, 15}, {colRule, hidden}, {colUp, hidden}, {colAge, hidden}, {colName, 6}, {colDown, hidden},
	} {
		over := total - width
		switch {
		case over <= 0:
			return widths
		case give.least == hidden:
			total -= widths[give.column] + columnGap
			widths[give.column] = hidden
		default:
			less := min(over, max(widths[give.column]-give.least, 0))
			widths[give.column] -= less
			total -= less
		}
	}
	return widths
}

// columnGap is what is between two columns.
const columnGap = 2

func join(r [columns]string, widths [columns]int) string {
	var b strings.Builder
	for i, text := range r {
		if widths[i] == hidden {
			continue
		}
		text = shortenFront(text, widths[i])
		pad := strings.Repeat(" ", widths[i]-len(text))
		if i == colUp || i == colDown || i == colAge {
			text = pad + text
		} else {
			text += pad
		}
		if b.Len() > 0 {
			b.WriteString(strings.Repeat(" ", columnGap))
		}
		b.WriteString(text)
	}
	return strings.TrimRight(b.String(), " ")
}

// shortenFront keeps the end of a text: that of a host name says whose it is.
func shortenFront(s string, width int) string {
	switch {
	case len(s) <= width:
		return s
	case width <= 2:
		return s[:width]
	}
	return ".." + s[len(s)-width+2:]
}

// clip keeps the beginning of a text.
func clip(s string, width int) string {
	switch {
	case width <= 0:
		return ""
	case len(s) <= width:
		return s
	case width <= 2:
		return s[:width]
	}
	return s[:width-2] + ".."
}

func (v *view) foot(width int) []string {
	var out []string
	if len(v.prompt) > 0 {
		for i, line := range v.prompt {
			line = clip(line, width)
			if i == 0 && v.color {
				line = "\x1b[1m" + line + "\x1b[0m"
			}
			out = append(out, line)
		}
		return out
	}
	out = append(out, fill(v.recent[max(0, len(v.recent)-recentLines):], recentLines, width)...)
	return append(out, clip("arrows select  k kill  p pause  s sort  c clear pauses  q quit  ? help", width))
}

// fill clips lines and adds empty ones up to n.
func fill(lines []string, n, width int) []string {
	out := make([]string, 0, n)
	for _, l := range lines[:min(len(lines), max(n, 0))] {
		out = append(out, clip(l, width))
	}
	for len(out) < n {
		out = append(out, "")
	}
	return out
}

func helpLines() []string {
	return []string{
		"Each line is a flow that a hosted program has open through this machine.",
		"",
		"APP          what the hosted side calls the program",
		"DESTINATION  the name that the address has here; ?NAME: so the hosted side says",
		"ADDRESS      what this machine is connected with",
		"RULE         what let it pass",
		"",
		"up, down     select a flow",
		"k            end it: both sides see it reset",
		"p            refuse new flows and questions, or go on",
		"s            sort by age, bytes or app",
		"c            let go on who was paused for looking for open ports",
		"q            let flows end for 2 seconds, then quit; once more: at once",
		"^C           quit at once: flows are reset",
	}
}

// age is a time as people say it.
func age(d time.Duration) string {
	switch s := int(max(d, 0).Seconds()); {
	case s < 60:
		return strconv.Itoa(s) + "s"
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 100*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
	default:
		return strconv.Itoa(s/86400) + "d"
	}
}

// octets is an amount of data as people say it.
func octets(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	v, prefix := float64(n)/1024, 0
	for v >= 1023.5 && prefix < 5 {
		v /= 1024
		prefix++
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[prefix])
	}
	return fmt.Sprintf("%.0f %ciB", v, "KMGTPE"[prefix])
}

// told is one line about an event, with hostile text escaped; "" for those that are not worth one.
func told(e *event.Event) string {
	at := e.Time.Local().Format(time.TimeOnly) + "  "
	switch d := e.Details.(type) {
	case *event.Connect:
		line := at + d.Verdict + "  " + cell(e.App) + "  " + destination(d.Hostname, d.NameSource == "dns", d.Dst.String(), d.Protocol)
		if d.Verdict == "allow" {
			return line + "  by " + cell(d.Rule)
		}
		return line + "  (" + cell(d.Reason) + ")" + allowHint(d)
	case *event.Close:
		return at + "closed  " + cell(e.App) + "  " + destination(d.Hostname, true, d.Dst.String(), d.Protocol) + "  " + cell(d.Close) + "  " +
			octets(d.BytesSent) + " up  " + octets(d.BytesReceived) + " down  " + age(d.Duration)
	case *event.DNSQuery:
		line := at + "dns " + d.Verdict + "  " + cell(e.App) + "  " + cell(d.Hostname) + " " + cell(d.QType)
		if d.Verdict == "deny" {
			return line + "  (" + cell(d.Reason) + ")"
		}
		return line + "  " + cell(d.RCode) + " " + cell(strings.Join(d.Answers, " "))
	case *event.Alert:
		return at + "ALERT  " + cell(d.What) + "  " + cell(d.Subject)
	case *event.Dropped:
		return at + "not shown or recorded: " + strconv.FormatUint(d.Count, 10) + " " + cell(d.What)
	}
	return ""
}

// destination is NAME:PORT (ADDRESS), or the address alone. A name that nobody here has confirmed has a question mark.
func destination(name string, confirmed bool, addr, network string) string {
	host, port, err := net.SplitHostPort(addr)
	if name == "" || err != nil {
		return cell(addr) + "/" + cell(network)
	}
	mark := ""
	if !confirmed {
		mark = "?"
	}
	return mark + cell(name) + ":" + port + "/" + cell(network) + " (" + cell(host) + ")"
}

// allowHint says which rule would let pass what was denied, where one should be thought of.
func allowHint(d *event.Connect) string {
	switch d.Reason {
	case "default", "port", "private", "no-evidence", "guard":
	default:
		return ""
	}
	host := d.Dst.Addr().String()
	if d.NameSource == "dns" && d.Hostname != "" && d.Reason != "guard" {
		host = d.Hostname
	}
	port := strconv.Itoa(int(d.Dst.Port()))
	if d.Reason == "guard" && d.Dst.Addr().IsLoopback() {
		return "; open it with --allow-loopback " + port
	}
	return "; allow it with --allow " + cell(net.JoinHostPort(host, port))
}
