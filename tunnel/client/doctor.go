package client

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/websocket"
)

// Finding is what Doctor found out about one thing, by doing it.
type Finding struct {
	ID      string `json:"id"`
	Status  string `json:"status"` // pass, warn, fail, skip
	Summary string `json:"summary"`
	Fix     string `json:"fix"`
}

// The statuses.
const (
	pass = "pass"
	warn = "warn"
	fail = "fail"
	skip = "skip"
)

// DoctorConfig says which edge to look for.
type DoctorConfig struct {
	// Edge, Roots, AllowPlain and Proxy are those of SupervisorConfig.
	Edge       *url.URL
	Roots      *x509.CertPool
	AllowPlain bool
	Proxy      func(*url.URL) (*url.URL, error)

	// Credentials are nil without any; CredentialsErr then says why.
	Credentials    Credentials
	CredentialsErr error
}

// probeTime bounds each thing that Doctor tries.
const probeTime = 5 * time.Second

// The skew of the clock from which on it is worth a word, and from which on certificates do not hold.
const (
	skewWarn = 2 * time.Minute
	skewFail = 50 * time.Minute
)

// Doctor finds out which of the parts of a connection is the trouble: credentials, dns, udp, mtu, proxy, tcp, tls, websocket,
// clock, in this order. It takes at most about 15 s, leaves no session at the edge, and disturbs none.
func Doctor(ctx context.Context, cfg DoctorConfig) []Finding {
	d := doctor{cfg: cfg, now: time.Now, resolve: resolve}
	d.knock = d.knockQUIC
	d.upgrade = d.upgradeWebSocket
	d.date = d.dateOfEdge
	return d.examine(ctx)
}

// doctor is one examination.
type doctor struct {
	cfg     DoctorConfig
	now     func() time.Time
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// knock shakes hands with the edge in packets of a size; upgrade opens a WebSocket, and says by which proxy it tried; date
	// asks for the edge's time.
	knock   func(ctx context.Context, addr netip.AddrPort, size uint16) error
	upgrade func(ctx context.Context) (proxy string, err error)
	date    func(ctx context.Context) (time.Time, error)
}

func (d *doctor) examine(ctx context.Context) []Finding {
	host, port, err := (&SupervisorConfig{Edge: d.cfg.Edge}).hostPort()
	if err != nil {
		return []Finding{{"dns", fail, err.Error(), "give the edge as https://HOST:PORT"}}
	}
	list := []Finding{d.credentials()}
	dns, addrs := d.dns(ctx, host)
	list = append(list, dns)
	sized, knocked := d.udp(ctx, addrs, port)
	proxy, upgraded := d.upgrade(ctx)
	list = append(list, udpFinding(knocked, upgraded == nil, len(addrs) > 0, port), sized)
	list = append(list, webSocketFindings(proxy, upgraded, knocked == nil && len(addrs) > 0, d.cfg.Edge.Host)...)
	return append(list, d.clock(ctx, knocked, upgraded))
}

// credentials says whether there is something to connect with.
func (d *doctor) credentials() Finding {
	const enrol = "weir enroll --token-file FILE, with a token of weir keys token on the hosted side"
	switch {
	case d.cfg.CredentialsErr != nil:
		return Finding{"credentials", fail, d.cfg.CredentialsErr.Error(), enrol}
	case d.cfg.Credentials == nil:
		return Finding{"credentials", skip, "none were looked for", ""}
	}
	left := d.cfg.Credentials.Expires().Sub(d.now())
	switch {
	case left <= 0:
		return Finding{"credentials", fail, creds.ErrExpired.Error(), enrol}
	case left < time.Hour:
		return Finding{"credentials", warn, fmt.Sprintf("they end in %s", left.Round(time.Minute)), "weir connect, which renews them"}
	}
	return Finding{"credentials", pass, fmt.Sprintf("good for %s", left.Round(time.Minute)), ""}
}

func (d *doctor) dns(ctx context.Context, host string) (Finding, []netip.Addr) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	addrs, err := d.resolve(ctx, host)
	if err != nil || len(addrs) == 0 {
		return Finding{"dns", fail, cmp.Or(errText(err), host+" has no address"), "check the name and this machine's resolvers"}, nil
	}
	var text []string
	for _, a := range addrs {
		text = append(text, a.String())
	}
	return Finding{"dns", pass, host + " is " + strings.Join(text, ", "), ""}, addrs
}

// sizes of packets that are tried, in octets of UDP payload, the usual one first.
var sizes = [...]uint16{1252, 1452, smallest}

// udp shakes hands in packets of each size, at one time. knocked is nil when any came through, else the error of the usual
// size.
func (d *doctor) udp(ctx context.Context, addrs []netip.Addr, port uint16) (mtu Finding, knocked error) {
	if len(addrs) == 0 {
		return Finding{"mtu", skip, "nothing to try it with", ""}, errors.New("no address")
	}
	ctx, cancel := context.WithTimeout(ctx, 2*probeTime)
	defer cancel()
	var errs [len(sizes)]error
	results := make(chan struct{}, len(sizes))
	for i, size := range sizes {
		go func() {
			for _, a := range spread(addrs) {
				if errs[i] = d.knock(ctx, netip.AddrPortFrom(a, port), size); errs[i] == nil {
					break
				}
			}
			results <- struct{}{}
		}()
	}
	for range sizes {
		<-results
	}
	usual, large, small := errs[0], errs[1], errs[2]
	switch {
	case usual == nil && large == nil:
		return Finding{"mtu", pass, "packets of 1480 octets pass", ""}, nil
	case usual == nil:
		return Finding{"mtu", pass, "packets of 1280 octets pass, of 1480 do not: a tunnel or VPN on the way", ""}, nil
	case small == nil:
		return Finding{"mtu", warn, "only packets of up to 1228 octets pass", "raise the MTU of the VPN or link on the way to 1280 or more; weir connect manages, with less speed"}, nil
	}
	return Finding{"mtu", skip, "no packets pass at all", ""}, usual
}

// udpFinding says whether QUIC reaches the edge. Without it there is WebSocket.
func udpFinding(err error, other, tried bool, port uint16) Finding {
	f := Finding{"udp", pass, "QUIC reaches the edge", ""}
	var clock *creds.ClockError
	switch {
	case !tried:
		return Finding{"udp", skip, "no address to try", ""}
	case err == nil, errors.As(err, &clock):
		return f
	case silent(err):
		f = Finding{"udp", fail, fmt.Sprintf("nothing comes back from UDP port %d", port), fmt.Sprintf("let UDP to port %d of the edge out, and check that weir serve --tunnel-listen runs there", port)}
	default:
		f = Finding{"udp", fail, err.Error(), ""}
		if permanent(err) != nil {
			f.Fix = "weir enroll --token-file FILE"
		}
		return f
	}
	if other {
		f.Status, f.Summary = warn, f.Summary+"; the tunnel goes by WebSocket, with less speed"
	}
	return f
}

// webSocketFindings tell from how far dialling came.
func webSocketFindings(proxy string, err error, other bool, edge string) []Finding {
	failed := fail
	if other {
		failed = warn
	}
	stage := ""
	var dial *websocket.DialError
	if errors.As(err, &dial) {
		stage = dial.Stage
	} else if err != nil {
		stage = websocket.StageTCP
	}
	reached := func(id, at string, good Finding, fix string) Finding {
		order := []string{websocket.StageProxy, websocket.StageTCP, websocket.StageTLS, websocket.StageHTTP}
		switch {
		case stage == "" || index(order, at) < index(order, stage):
			return good
		case at == stage:
			return Finding{id, failed, err.Error(), fix}
		}
		return Finding{id, skip, "did not come so far", ""}
	}
	through := Finding{"proxy", skip, "none is set for the edge", ""}
	tcp := Finding{"tcp", pass, edge + " takes connections", ""}
	if proxy != "" {
		through = Finding{"proxy", pass, proxy + " lets connections to the edge through", ""}
		tcp = Finding{"tcp", skip, "the proxy connects", ""}
	}
	proxyFix := "check HTTPS_PROXY and NO_PROXY, and that the proxy lets CONNECT to the edge through"
	if errors.Is(err, websocket.ErrProxyAuth) {
		proxyFix = "HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT"
	}
	return []Finding{
		reached("proxy", websocket.StageProxy, through, proxyFix),
		reached("tcp", websocket.StageTCP, tcp, "let TCP to the edge out, or set HTTPS_PROXY where this network has a proxy"),
		reached("tls", websocket.StageTLS, Finding{"tls", pass, "the edge's outer certificate is good", ""}, "when a proxy here breaks TLS, give its root with --tunnel-ca FILE: the tunnel inside stays private"),
		reached("websocket", websocket.StageHTTP, Finding{"websocket", pass, "the edge takes WebSockets", ""}, "check that nothing on the way refuses HTTP upgrades, and that the URL is the edge's"),
	}
}

func index(order []string, stage string) int {
	for i, s := range order {
		if s == stage {
			return i
		}
	}
	return len(order)
}

// clock compares this machine's clock with the edge's.
func (d *doctor) clock(ctx context.Context, knocked, upgraded error) Finding {
	const fix = "set this machine's clock (NTP): certificates hold only at their time"
	for _, err := range []error{knocked, upgraded} {
		if clock := new(creds.ClockError); errors.As(err, &clock) {
			return Finding{"clock", fail, clock.Error(), fix}
		}
	}
	at, err := d.date(ctx)
	if err != nil {
		return Finding{"clock", skip, "the edge did not say what time it is there", ""}
	}
	skew := d.now().Sub(at).Round(time.Second)
	f := Finding{"clock", pass, "agrees with the edge's", ""}
	if skew.Abs() >= skewWarn {
		f = Finding{"clock", warn, fmt.Sprintf("is %s ahead of the edge's", skew), fix}
		if skew < 0 {
			f.Summary = fmt.Sprintf("is %s behind the edge's", -skew)
		}
	}
	if skew.Abs() >= skewFail {
		f.Status = fail
	}
	return f
}
