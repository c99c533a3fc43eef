//go:build linux

package tests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// throughTunnel are the rows of TestSameEvents, and more, that see the same by the tunnel as on the direct route.
var throughTunnel = []sameRow{
	{"http", "--allow shop.example", "/run/probe get http://shop.example/", owners},
	{"https", "--allow shop.example", "/run/probe get https://shop.example/", owners | sizes},
	{"http3", "--allow shop.example", "/run/probe get https3://shop.example/", owners | sizes},
	{"ipv6", "--allow [2001:db8:1::20]:7", "/run/probe tcp [2001:db8:1::20]:7 hello; /run/probe udp [2001:db8:1::20]:7 hello", owners},
	{"datagrams", "--allow tools.example:7", "/run/probe udp tools.example:7 hello; for n in 0 1 1400 9000 65507; do /run/probe datagram tools.example:7 $n; done", owners},
	{"upload", "--allow tools.example:6", "/run/probe upload tools.example:6 3000000", owners},
	{"download", "--allow tools.example:19", "/run/probe download tools.example:19 3000000", owners},
	{"the server speaks first", "--allow tools.example:22", "/run/probe tcp tools.example:22 hello", owners},
	{"the server ends first", "--allow tools.example:21", "/run/probe after tools.example:21 hello", owners},
	{"the server resets", "--allow tools.example:9999", "/run/probe tcp tools.example:9999 x", owners},
	{"closed", "--allow tools.example:9", "/run/probe tcp tools.example:9", owners},
	{"unreachable", "--allow 203.0.113.250:80", "/run/probe tcp 203.0.113.250:80", owners},
	{"denied by default", "--allow shop.example", "/run/probe tcp 203.0.113.66:80 x; /run/probe udp 203.0.113.66:80 x; /run/probe get http://evil.example/", owners},
	{"denied by a rule", "--deny 203.0.113.66", "/run/probe tcp 203.0.113.66:80 x; /run/probe udp 203.0.113.66:80 x", owners},
	{"denied by a guard", "--allow @any:*", "/run/probe tcp 169.254.169.254:80 x; /run/probe udp 169.254.169.254:80 x; /run/probe tcp 10.77.0.1:1077 x", owners},
	{"private", "--allow @public:*", "/run/probe tcp db.corp.example:5432 x; /run/probe tcp 10.1.2.3:5432 x", owners},
	{"a lie about the name", "--allow shop.example", "/run/probe tls shop.example:443 sibling.example; /run/probe tls 198.51.100.11:443 shop.example", owners | sizes},
	{"a claim without evidence", "--allow shop.example", "/run/probe tls 198.51.100.10:443 shop.example", owners | sizes},
	{"starttls", "--allow tools.example:5432", "/run/probe postgres tools.example:5432 tools.example; /run/probe postgres tools.example:5432 evil.example", owners | sizes},
	{"dns", "--allow shop.example", "for q in 'dns 10.77.0.1:53' 'dns+tcp 10.77.0.1:53'; do /run/probe $q shop.example A; /run/probe $q shop.example AAAA; /run/probe $q evil.example A; done", owners},
	{"dns of its own", "--allow shop.example --allow 198.51.100.53:53", "/run/probe dns 198.51.100.53:53 shop.example A; /run/probe dns+tcp 198.51.100.53:53 evil.example A", owners},
	{"audit", "--mode audit", "/run/probe get http://evil.example/; /run/probe tcp 10.1.2.3:5432 x; /run/probe tcp 169.254.169.254:80 x", owners},
}

// TestTunnelRoute: what a program sees and what is recorded is the same by the tunnel as on the direct route, through every
// door, but for the route and who carried it.
func TestTunnelRoute(t *testing.T) {
	for _, c := range throughTunnel {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := eventsThrough(t, "netstack", c)
			for _, door := range doors {
				s, env := serveStandIn(t)
				tunnelled := c
				tunnelled.flags += " --route tunnel"
				got := eventsOf(t, door, tunnelled, env)
				for _, line := range got {
					if strings.HasPrefix(line, "network-close") && !strings.Contains(line, `"client":"default/stand-in"`) && !strings.Contains(line, `"close":"error"`) {
						t.Errorf("through %s nobody carried %s", door, line)
					}
				}
				if got, want := withoutRoute(got), withoutRoute(want); !slices.Equal(got, want) {
					t.Errorf("through %s by the tunnel:\n%s\ndirect:\n%s", door, without(got, want), without(want, got))
				}
				for _, o := range s.asked() {
					if o.Sandbox == "" || o.App != "same" || !strings.HasPrefix(o.Flow, o.Sandbox+"-") {
						t.Errorf("the edge was asked for %+v", o)
					}
				}
			}
		})
	}
}

// withoutRoute are the events of flows and questions without what tells of the route: its name, who carried the flow, how an
// error is worded.
func withoutRoute(list []string) (same []string) {
	worded := regexp.MustCompile(`"error":"[^"]*"`)
	for _, line := range list {
		if strings.HasPrefix(line, "sandbox-") { // the policy's digest is another one
			continue
		}
		line = strings.NewReplacer(`"client":"default/stand-in",`, "", `"route":"tunnel"`, `"route":"direct"`,
			`"close":"exit"`, `"close":"fin"`).Replace(line) // a server farther away ends its stream when the program has ended
		same = append(same, worded.ReplaceAllString(line, ""))
	}
	slices.Sort(same)
	return same
}

// runBy runs a shell script inside by the tunnel, and returns what it said and the event log.
func runBy(t *testing.T, env []string, door, flags, script string) (said, log string) {
	t.Helper()
	book := filepath.Join(t.TempDir(), "events")
	args := append([]string{"run", "-q", "--name", "same", "--door", door, "--events", book}, strings.Fields(flags)...)
	args = append(args, "--share="+filepath.Join(binDir(), "probe")+":/run/probe:ro", "--", "sh", "-c", script+"; true")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir(), "weir"), args...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", door, err, out)
	}
	text, err := os.ReadFile(book)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), string(text)
}

// TestTunnelAnswers: what the user's machine answers, and that there is none, is what the program sees.
func TestTunnelAnswers(t *testing.T) {
	for _, c := range []struct {
		code            tunnel.Code
		tcp, udp        string
		verdict, reason string
		close           string
	}{
		{tunnel.Refused, "ECONNREFUSED", "ECONNREFUSED", "allow", "", "error"},
		{tunnel.HostUnreachable, "EHOSTUNREACH", "", "allow", "", "error"}, // which a UDP socket of Linux does not tell its program
		{tunnel.NetUnreachable, "ENETUNREACH", "", "allow", "", "error"},
		{tunnel.Denied, "ECONNREFUSED", "ECONNREFUSED", "allow", "", "error"},
		{tunnel.NoClient, "ECONNREFUSED", "ECONNREFUSED", "deny", "no-tunnel", ""},
		{tunnel.Limit, "ECONNREFUSED", "ECONNREFUSED", "deny", "limit", ""},
	} {
		for _, door := range doors {
			t.Run(fmt.Sprintf("%s through %s", c.code, door), func(t *testing.T) {
				t.Parallel()
				s, env := serveStandIn(t)
				s.fail = tunnel.Errorf(c.code, "as told")
				said, log := runBy(t, env, door, "--route tunnel --allow 198.51.100.20:7", "/run/probe tcp 198.51.100.20:7 x; echo; timeout 1 /run/probe udp 198.51.100.20:7 x")
				if lines := strings.Split(strings.TrimSpace(said), "\n"); !strings.Contains(lines[0], c.tcp) || !strings.Contains(lines[len(lines)-1], c.udp) {
					t.Errorf("the program said %q, want %s and %s", said, c.tcp, c.udp)
				}
				for _, protocol := range []string{"tcp", "udp"} {
					if !hasEvent(t, log, "network-connect", "protocol="+protocol, "verdict="+c.verdict, "reason="+c.reason) {
						t.Errorf("%s: recorded %s", protocol, log)
					}
					if has := hasEvent(t, log, "network-close", "protocol="+protocol, "close="+c.close, "route=tunnel"); has != (c.close != "") {
						t.Errorf("%s: recorded %s", protocol, log)
					}
				}
			})
		}
	}
}

// TestTunnelBreaks: a flow whose tunnel breaks is reset at once, and the next one goes by whoever is there then.
func TestTunnelBreaks(t *testing.T) {
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			t.Parallel()
			s, env := serveStandIn(t)
			broken := make(chan struct{})
			go func() {
				defer close(broken)
				for giveUp := time.Now().Add(20 * time.Second); !s.lose() && time.Now().Before(giveUp); {
					time.Sleep(10 * time.Millisecond)
				}
			}()
			said, log := runBy(t, env, door, "--route tunnel --allow tools.example:7",
				`bash -c 'exec 3<>/dev/tcp/tools.example/7; echo hi >&3; cat <&3; echo ended'; /run/probe tcp tools.example:7 again`)
			<-broken
			if !strings.Contains(said, "reset by peer") || !strings.Contains(said, "ended\n") || !strings.HasSuffix(strings.TrimSpace(said), "again") {
				t.Errorf("the program said %q", said)
			}
			if !hasEvent(t, log, "network-close", "close=tunnel-lost", "client=default/stand-in") || !hasEvent(t, log, "network-close", "close=fin", "bytes_received=5") {
				t.Errorf("recorded %s", log)
			}
		})
	}
}

// TestTunnelDrains: what a program wrote before it ended arrives, as on the direct route.
func TestTunnelDrains(t *testing.T) {
	for _, door := range doors {
		t.Run(door, func(t *testing.T) {
			t.Parallel()
			_, env := serveStandIn(t)
			said, log := runBy(t, env, door, "--route tunnel --allow tools.example:*", `bash -c 'exec 3<>/dev/tcp/tools.example/25; echo "through the tunnel by `+door+`" >&3'`)
			for giveUp := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				if _, ok := heard.Load("through the tunnel by " + door + "\n"); ok {
					break
				}
				if time.Now().After(giveUp) {
					t.Fatalf("it did not arrive; the program said %q\n%s", said, log)
				}
			}
		})
	}
}
