package client

import (
	"context"
	"crypto/x509"
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/websocket"
)

// TestDoctor: each trouble has its name, and what works all the same makes a warning of it.
func TestDoctor(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	noAnswer := &quic.HandshakeTimeoutError{}
	stage := func(s string, err error) error { return &websocket.DialError{Stage: s, Err: err} }
	all := func(uint16) error { return nil }
	none := func(uint16) error { return noAnswer }
	for _, c := range []struct {
		name   string
		expire time.Duration // from now on
		noName bool
		knock  func(size uint16) error
		proxy  string
		ws     error
		skew   time.Duration
		want   map[string]string // those that are not pass; proxy is skip where nothing is said
		says   string            // in one of the summaries or fixes
	}{
		{name: "all is well", want: map[string]string{"proxy": skip}},
		{name: "udp blocked", knock: none, want: map[string]string{"udp": warn, "mtu": skip, "proxy": skip}, says: "UDP to port 8443"},
		{name: "udp and tcp blocked", knock: none, ws: stage(websocket.StageTCP, errors.New("i/o timeout")),
			want: map[string]string{"udp": fail, "mtu": skip, "proxy": skip, "tcp": fail, "tls": skip, "websocket": skip}, says: "HTTPS_PROXY"},
		{name: "tcp blocked", ws: stage(websocket.StageTCP, errors.New("i/o timeout")), want: map[string]string{"proxy": skip, "tcp": warn, "tls": skip, "websocket": skip}},
		{name: "behind a proxy", knock: none, proxy: "proxy.example:3128", want: map[string]string{"udp": warn, "mtu": skip, "tcp": skip}},
		{name: "proxy wants a password", knock: none, proxy: "proxy.example:3128", ws: stage(websocket.StageProxy, websocket.ErrProxyAuth),
			want: map[string]string{"udp": fail, "mtu": skip, "proxy": fail, "tcp": skip, "tls": skip, "websocket": skip}, says: "USER:PASSWORD"},
		{name: "proxy breaks tls", knock: none, proxy: "proxy.example:3128", ws: stage(websocket.StageTLS, x509.UnknownAuthorityError{}),
			want: map[string]string{"udp": fail, "mtu": skip, "tcp": skip, "tls": fail, "websocket": skip}, says: "--tunnel-ca"},
		{name: "no upgrade", ws: stage(websocket.StageHTTP, errors.New("the server answered 404 Not Found")), want: map[string]string{"proxy": skip, "websocket": warn}},
		{name: "no name", noName: true, ws: stage(websocket.StageTCP, errors.New("no such host")),
			want: map[string]string{"dns": fail, "udp": skip, "mtu": skip, "proxy": skip, "tcp": fail, "tls": skip, "websocket": skip}},
		{name: "vpn", knock: func(size uint16) error {
			if size > 1252 {
				return noAnswer
			}
			return nil
		}, want: map[string]string{"proxy": skip}, says: "1480 do not"},
		{name: "tiny mtu", knock: func(size uint16) error {
			if size > smallest {
				return noAnswer
			}
			return nil
		}, want: map[string]string{"mtu": warn, "proxy": skip}, says: "MTU"},
		{name: "revoked", knock: func(uint16) error { return creds.ErrRejected }, want: map[string]string{"udp": fail, "mtu": skip, "proxy": skip}, says: "weir enroll"},
		{name: "certificate ends soon", expire: 30 * time.Minute, want: map[string]string{"credentials": warn, "proxy": skip}},
		{name: "certificate has ended", expire: -time.Minute, want: map[string]string{"credentials": fail, "proxy": skip}},
		{name: "clock ahead", skew: 5 * time.Minute, want: map[string]string{"proxy": skip, "clock": warn}, says: "5m0s ahead"},
		{name: "clock behind", skew: -3 * time.Hour, want: map[string]string{"proxy": skip, "clock": fail}, says: "behind"},
		{name: "clock before the certificate", knock: func(uint16) error { return &creds.ClockError{Local: now, Edge: now.Add(48 * time.Hour)} },
			want: map[string]string{"mtu": skip, "proxy": skip, "clock": fail}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.knock == nil {
				c.knock = all
			}
			if c.expire == 0 {
				c.expire = 20 * time.Hour
			}
			u, _ := url.Parse("https://edge.example:8443")
			d := doctor{
				cfg: DoctorConfig{Edge: u, Credentials: &fakeCredentials{made: now.Add(c.expire - 24*time.Hour)}},
				now: func() time.Time { return now.Add(c.skew) },
				resolve: func(context.Context, string) ([]netip.Addr, error) {
					if c.noName {
						return nil, errors.New("no such host")
					}
					return []netip.Addr{edge4}, nil
				},
				knock:   func(_ context.Context, _ netip.AddrPort, size uint16) error { return c.knock(size) },
				upgrade: func(context.Context) (string, error) { return c.proxy, c.ws },
				date:    func(context.Context) (time.Time, error) { return now, nil },
			}
			var ids []string
			said := false
			for _, f := range d.examine(t.Context()) {
				ids = append(ids, f.ID)
				want := c.want[f.ID]
				if want == "" {
					want = pass
				}
				if f.Status != want {
					t.Errorf("%s: %s %q, want %s", f.ID, f.Status, f.Summary, want)
				}
				if (f.Status == fail || f.Status == warn) && f.Fix == "" {
					t.Errorf("%s: %q without a way to mend it", f.ID, f.Summary)
				}
				said = said || strings.Contains(f.Summary+f.Fix, c.says)
			}
			if !slices.Equal(ids, []string{"credentials", "dns", "udp", "mtu", "proxy", "tcp", "tls", "websocket", "clock"}) {
				t.Errorf("findings %v", ids)
			}
			if !said {
				t.Errorf("nothing says %q", c.says)
			}
		})
	}
}
