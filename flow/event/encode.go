package event

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// Bounds of one line. Strings are cut at maxString octets of encoded text, lists at their own bound; the sum over the
// largest kind, with every field at its bound, stays below MaxLine.
const (
	// MaxLine is the longest line, in octets and without the newline.
	MaxLine = 64 << 10

	maxString = 2 << 10
	maxNames  = 8 << 10
	maxALPN   = 4 << 10
	maxArgs   = 8 << 10
	maxAnswer = 16 << 10

	// minElement is the room a list must have left for another element.
	minElement = 64
)

const timeLayout = "2006-01-02T15:04:05.000000Z"

// AppendJSON appends the event as one line of JSON without the newline and returns the longer slice. The line is valid
// JSON in printable characters only, at most [MaxLine] octets long; strings that are too long end in a marker that says
// how many octets are missing.
func (e *Event) AppendJSON(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = e.Time.UTC().AppendFormat(b, timeLayout)
	b = append(b, '"')
	b = appendField(b, "event", string(e.kind()))
	b = appendField(b, "app", e.App)
	b = appendField(b, "sandbox", e.Sandbox)
	b = appendField(b, "flow", e.Flow)
	b = append(b, `,"details":`...)
	if e.Details == nil {
		b = append(b, "{}"...)
	} else {
		b = e.Details.AppendJSON(b)
	}
	return append(b, '}')
}

// AppendJSON implements [Details].
func (c *Connect) AppendJSON(b []byte) []byte {
	b = appendField(append(b, '{'), "hostname", c.Hostname)
	source := c.NameSource
	if source == "" {
		source = "none"
	}
	b = appendField(b, "name_source", source)
	b = appendList(b, "names", c.Names, maxNames)
	b = appendEndpoint(b, "dest", c.Dst)
	b = appendEndpoint(b, "src", c.Src)
	b = appendField(b, "protocol", c.Protocol)
	b = appendRoute(b, c.Route, c.Client)
	if c.Verdict != "" {
		b = appendField(b, "verdict", c.Verdict)
	}
	b = appendField(b, "rule", c.Rule)
	b = appendField(b, "reason", c.Reason)
	b = appendField(b, "door", c.Door)
	b = appendField(b, "sni", c.SNI)
	b = appendField(b, "http_host", c.HTTPHost)
	b = appendList(b, "alpn", c.ALPN, maxALPN)
	b = strconv.AppendBool(append(b, `,"ech":`...), c.ECH)
	if c.Inbound {
		b = appendField(b, "direction", "in")
	}
	if c.Process == nil {
		return append(b, `,"process":null}`...)
	}
	b = strconv.AppendInt(append(b, `,"process":{"pid":`...), int64(c.Process.PID), 10)
	b = appendField(b, "exe", c.Process.Exe)
	b = appendList(b, "args", MaskArgs(c.Process.Args), maxArgs)
	return append(b, '}', '}')
}

// AppendJSON implements [Details].
func (c *Close) AppendJSON(b []byte) []byte {
	b = appendField(append(b, '{'), "hostname", c.Hostname)
	b = appendEndpoint(b, "dest", c.Dst)
	b = appendField(b, "protocol", c.Protocol)
	b = appendRoute(b, c.Route, c.Client)
	if c.Verdict != "" {
		b = appendField(b, "verdict", c.Verdict)
	}
	b = appendUint(b, "bytes_sent", c.BytesSent)
	b = appendUint(b, "bytes_received", c.BytesReceived)
	b = appendDuration(b, c.Duration)
	b = appendField(b, "close", c.Close)
	for _, f := range [...]struct{ name, value string }{{"rule", c.Rule}, {"reason", c.Reason}, {"error", c.Error}} {
		if f.value != "" {
			b = appendField(b, f.name, f.value)
		}
	}
	return append(b, '}')
}

// AppendJSON implements [Details].
func (d *DNSQuery) AppendJSON(b []byte) []byte {
	b = appendField(append(b, '{'), "hostname", d.Hostname)
	b = appendField(b, "qtype", d.QType)
	b = appendField(b, "server", d.Server)
	b = appendField(b, "rcode", d.RCode)
	b = appendList(b, "answers", d.Answers, maxAnswer)
	b = appendRoute(b, d.Route, d.Client)
	if d.Verdict != "" {
		b = appendField(b, "verdict", d.Verdict)
	}
	b = appendField(b, "rule", d.Rule)
	b = appendField(b, "reason", d.Reason)
	b = appendDuration(b, d.Duration)
	return append(b, '}')
}

// AppendJSON implements [Details].
func (s *SandboxStart) AppendJSON(b []byte) []byte {
	b = appendSandbox(append(b, '{'), s)
	if s.Held != nil {
		b = appendList(b, "held", s.Held, maxArgs)
	}
	return append(b, '}')
}

// AppendJSON implements [Details].
func (s *SandboxExit) AppendJSON(b []byte) []byte {
	b = appendSandbox(append(b, '{'), &SandboxStart{Command: s.Command, Door: s.Door, Link: s.Link, Policy: s.Policy, Mode: s.Mode})
	b = strconv.AppendInt(append(b, `,"status":`...), int64(s.Status), 10)
	b = appendDuration(b, s.Duration)
	return append(b, '}')
}

// AppendJSON implements [Details].
func (t *Tunnel) AppendJSON(b []byte) []byte {
	b = appendField(append(b, '{'), "client", t.Client)
	b = appendField(b, "transport", t.Transport)
	b = appendField(b, "remote", t.Remote)
	b = appendField(b, "session", t.Session)
	b = appendField(b, "reason", t.Reason)
	return append(b, '}')
}

// AppendJSON implements [Details].
func (a *Alert) AppendJSON(b []byte) []byte {
	b = appendField(append(b, '{'), "kind", a.What)
	b = appendField(b, "subject", a.Subject)
	return append(b, '}')
}

// AppendJSON implements [Details].
func (d *Dropped) AppendJSON(b []byte) []byte {
	b = appendField(append(b, '{'), "what", d.What)
	b = appendUint(b, "count", d.Count)
	if len(d.ByKind) > 0 {
		b = append(b, `,"by_kind":{`...)
		for i, k := range d.ByKind {
			if i == kindSlots {
				break
			}
			b = appendUint(b, string(k.Kind), k.Count)
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

func appendSandbox(b []byte, s *SandboxStart) []byte {
	b = appendList(b, "command", MaskArgs(s.Command), maxArgs)
	b = appendField(b, "door", s.Door)
	b = appendField(b, "link", s.Link)
	b = appendField(b, "policy", s.Policy)
	return appendField(b, "mode", s.Mode)
}

// appendField appends "name":"value", with a comma before it unless it is the first of its object.
func appendField(b []byte, name, value string) []byte {
	b = appendName(b, name)
	return appendString(b, value, maxString)
}

// appendRoute appends the route, and who carries it where somebody does.
func appendRoute(b []byte, route, client string) []byte {
	b = appendField(b, "route", route)
	if client != "" {
		b = appendField(b, "client", client)
	}
	return b
}

func appendUint(b []byte, name string, n uint64) []byte {
	return strconv.AppendUint(appendName(b, name), n, 10)
}

func appendDuration(b []byte, d time.Duration) []byte {
	return strconv.AppendInt(appendName(b, "duration_ms"), max(d, 0).Milliseconds(), 10)
}

func appendEndpoint(b []byte, name string, a netip.AddrPort) []byte {
	b = appendName(b, name+"_ip")
	ip := ""
	if a.Addr().IsValid() {
		ip = a.Addr().String()
	}
	b = appendString(b, ip, maxString)
	return appendUint(b, name+"_port", uint64(a.Port()))
}

func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = appendString(b, name, maxString)
	return append(b, ':')
}

// appendList appends a list whose encoded text is at most limit octets long, plus one marker for what is missing.
func appendList(b []byte, name string, list []string, limit int) []byte {
	b = append(appendName(b, name), '[')
	start := len(b)
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		left := limit - (len(b) - start)
		if left < minElement {
			b = append(b, `"...[+`...)
			b = strconv.AppendInt(b, int64(len(list)-i), 10)
			b = append(b, ` more]"`...)
			break
		}
		b = appendString(b, s, min(left, maxString))
	}
	return append(b, ']')
}

// appendString appends s as a JSON string whose text is at most limit octets long, plus a marker when it was cut.
func appendString(b []byte, s string, limit int) []byte {
	b = append(b, '"')
	start := len(b)
	for i := 0; i < len(s); {
		plain := i
		for plain < len(s) && s[plain] >= ' ' && s[plain] < 0x7f && s[plain] != '"' && s[plain] != '\\' {
			plain++
		}
		if left := limit - (len(b) - start); plain-i > left {
			return appendCut(append(b, s[i:i+left]...), len(s)-i-left)
		}
		b = append(b, s[i:plain]...)
		if i = plain; i == len(s) {
			break
		}
		mark := len(b)
		_, n := utf8.DecodeRuneInString(s[i:])
		b = appendRune(b, s[i:i+n])
		if len(b)-start > limit {
			return appendCut(b[:mark], len(s)-i)
		}
		i += n
	}
	return append(b, '"')
}

// appendRune appends the one character, or the one octet that is not UTF-8, that needs a second look.
func appendRune(b []byte, s string) []byte {
	switch r, n := utf8.DecodeRuneInString(s); {
	case r == utf8.RuneError && n == 1:
		return append(b, '\\', '\\', 'x', hexDigits[s[0]>>4], hexDigits[s[0]&15])
	case r == '"' || r == '\\':
		return append(b, '\\', byte(r))
	case hidden(r):
		return appendRuneEscape(b, r)
	default:
		return append(b, s...)
	}
}

// appendCut ends a string from which the last n octets are missing.
func appendCut(b []byte, n int) []byte {
	b = append(b, "...[+"...)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, ` bytes]"`...)
}
