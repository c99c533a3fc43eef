package wire

import (
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// Version1 is the version that this package speaks.
const Version1 = 1

// Bounds of control messages.
const (
	MaxVersions = 16
	MaxSoftware = 128      // octets
	MaxSession  = 64       // octets
	MaxCSR      = 8 << 10  // octets
	MaxChain    = 16 << 10 // octets
	MaxDelay    = 24 * time.Hour
)

// milliseconds reads a duration.
func (v value) milliseconds(to *time.Duration) error {
	var ms uint64
	err := v.integer(&ms, uint64(MaxDelay.Milliseconds()))
	*to = time.Duration(ms) * time.Millisecond
	return err
}

func (f *block) milliseconds(typ uint64, d time.Duration) {
	f.integer(typ, uint64(min(max(d, 0), MaxDelay).Milliseconds()))
}

// Hello is the first message of the client.
type Hello struct {
	Versions     []uint64 // that the client speaks
	Generation   uint64   // a later process of one client has a greater one
	Software, OS string   // for people
	Routes       []Route
}

func (*Hello) typ() uint64 { return typeHello }

func (m *Hello) fields(f *block) {
	for _, v := range m.Versions {
		f.integer(1, v)
	}
	f.integer(2, m.Generation)
	f.text(3, upTo(m.Software, MaxSoftware))
	f.text(4, upTo(m.OS, MaxSoftware))
	for _, r := range m.Routes {
		f.octets(5, appendRoute(nil, r))
	}
}

func (m *Hello) field(typ uint64, v value) error {
	switch typ {
	case 1:
		var version uint64
		if len(m.Versions) == MaxVersions {
			return malformed("more than %d versions", MaxVersions)
		}
		err := v.integer(&version, MaxVarint)
		m.Versions = append(m.Versions, version)
		return err
	case 2:
		return v.integer(&m.Generation, MaxVarint)
	case 3:
		return v.text(&m.Software, MaxSoftware)
	case 4:
		return v.text(&m.OS, MaxSoftware)
	case 5:
		return v.route(&m.Routes)
	}
	return nil
}

// route adds a route to those of a message.
func (v value) route(to *[]Route) error {
	if len(*to) == MaxRoutes {
		return malformed("more than %d routes", MaxRoutes)
	}
	r, known, err := parseRoute(v.octets)
	if known {
		*to = append(*to, r)
	}
	return err
}

// Welcome is the edge's answer to a [Hello].
type Welcome struct {
	Version    uint64
	Session    string // an id for both logs
	Space      string // what the client's certificate says, for people
	Client     string
	Time       time.Time     // the edge's clock, so that a client whose certificate does not hold yet knows why
	RenewAfter time.Duration // when the client is to ask for its next certificate; 0 leaves it to the client
}

func (*Welcome) typ() uint64 { return typeWelcome }

func (m *Welcome) fields(f *block) {
	f.integer(1, m.Version)
	f.text(2, upTo(m.Session, MaxSession))
	f.text(3, upTo(m.Space, MaxLabel))
	f.text(4, upTo(m.Client, MaxLabel))
	f.integer(5, uint64(max(m.Time.UnixMilli(), 0)))
	f.milliseconds(6, m.RenewAfter)
}

func (m *Welcome) field(typ uint64, v value) error {
	switch typ {
	case 1:
		return v.integer(&m.Version, MaxVarint)
	case 2:
		return v.text(&m.Session, MaxSession)
	case 3:
		return v.text(&m.Space, MaxLabel)
	case 4:
		return v.text(&m.Client, MaxLabel)
	case 5:
		var ms uint64
		err := v.integer(&ms, 1<<50)
		m.Time = time.UnixMilli(int64(ms))
		return err
	case 6:
		return v.milliseconds(&m.RenewAfter)
	}
	return nil
}

// Ping is to be answered with a [Pong] of the same number.
type Ping struct{ Number uint64 }

func (*Ping) typ() uint64                       { return typePing }
func (m *Ping) fields(f *block)                 { f.integer(1, m.Number) }
func (m *Ping) field(typ uint64, v value) error { return number(typ, v, &m.Number) }

// Pong answers a [Ping].
type Pong struct{ Number uint64 }

func (*Pong) typ() uint64                       { return typePong }
func (m *Pong) fields(f *block)                 { f.integer(1, m.Number) }
func (m *Pong) field(typ uint64, v value) error { return number(typ, v, &m.Number) }

func number(typ uint64, v value, to *uint64) error {
	if typ != 1 {
		return nil
	}
	return v.integer(to, MaxVarint)
}

// Drain says that the sender is about to end the session: it opens no flow and takes none, and waits for those that there are.
type Drain struct {
	Code           tunnel.Code // why: [tunnel.Draining] for an edge that stops, [tunnel.Superseded] for a client that came again
	Text           string
	ReconnectAfter time.Duration // when the client may connect again
	GiveUpAfter    time.Duration // how long it should try; 0 is for ever
	Deadline       time.Duration // when the session ends at the latest
}

func (*Drain) typ() uint64 { return typeDrain }

func (m *Drain) fields(f *block) {
	f.integer(1, uint64(m.Code))
	f.text(2, upTo(m.Text, tunnel.MaxText))
	f.milliseconds(3, m.ReconnectAfter)
	f.milliseconds(4, m.GiveUpAfter)
	f.milliseconds(5, m.Deadline)
}

func (m *Drain) field(typ uint64, v value) error {
	switch typ {
	case 1:
		return v.integer((*uint64)(&m.Code), MaxVarint)
	case 2:
		return v.text(&m.Text, tunnel.MaxText)
	case 3:
		return v.milliseconds(&m.ReconnectAfter)
	case 4:
		return v.milliseconds(&m.GiveUpAfter)
	case 5:
		return v.milliseconds(&m.Deadline)
	}
	return nil
}

// Routes takes the place of the routes in the [Hello] and of those that came before.
type Routes struct{ Routes []Route }

func (*Routes) typ() uint64 { return typeRoutes }

func (m *Routes) fields(f *block) {
	for _, r := range m.Routes {
		f.octets(1, appendRoute(nil, r))
	}
}

func (m *Routes) field(typ uint64, v value) error {
	if typ != 1 {
		return nil
	}
	return v.route(&m.Routes)
}

// Renew asks for a certificate: CSR is a PKCS #10 request (RFC 2986) in DER.
type Renew struct{ CSR []byte }

func (*Renew) typ() uint64       { return typeRenew }
func (m *Renew) fields(f *block) { f.octets(1, m.CSR) }
func (m *Renew) field(typ uint64, v value) error {
	if typ != 1 {
		return nil
	}
	return v.raw(&m.CSR, MaxCSR)
}

// Renewed answers a [Renew]: with what the edge's credentials made of it, or with why not.
type Renewed struct {
	Chain []byte
	Code  tunnel.Code
	Text  string
}

func (*Renewed) typ() uint64 { return typeRenewed }

func (m *Renewed) fields(f *block) {
	if len(m.Chain) > 0 {
		f.octets(1, m.Chain)
	}
	f.integer(2, uint64(m.Code))
	f.text(3, upTo(m.Text, tunnel.MaxText))
}

func (m *Renewed) field(typ uint64, v value) error {
	switch typ {
	case 1:
		return v.raw(&m.Chain, MaxChain)
	case 2:
		return v.integer((*uint64)(&m.Code), MaxVarint)
	case 3:
		return v.text(&m.Text, tunnel.MaxText)
	}
	return nil
}

// Goodbye says that the sender has no flow any more and opens none: whoever began the drain may end the session.
type Goodbye struct{}

func (*Goodbye) typ() uint64               { return typeGoodbye }
func (*Goodbye) fields(*block)             {}
func (*Goodbye) field(uint64, value) error { return nil }
