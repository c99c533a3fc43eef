package policy

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

func observeAll(t *testing.T, path string) []Observation {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []Observation
	for _, text := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		o, ok, err := Observe(text)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			all = append(all, o)
		}
	}
	return all
}

func TestSuggest(t *testing.T) {
	all := observeAll(t, "testdata/suggest/run.jsonl")
	got := Suggest(all).YAML()
	const golden = "testdata/suggest/run.yaml"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, _ := os.ReadFile(golden)
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	slices.Reverse(all)
	if again := Suggest(all).YAML(); !bytes.Equal(got, again) {
		t.Errorf("in another order:\n%s", again)
	}
}

// replay judges an observation under a suggested file.
func replay(t *testing.T, file *File, o Observation) (Verdict, string) {
	t.Helper()
	p, err := New(Config{File: file, App: o.App})
	if err != nil {
		t.Fatal(err)
	}
	v, reason, _ := p.DecideObserved(o)
	return v, reason
}

// TestSuggestReplays: under the suggested policy everything that passed passes again, and its neighbours do not.
func TestSuggestReplays(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{"a.example", "b.example", "c.d.example", "nas", "db.internal", "dns.google"}
	addrs := []string{"203.0.113.1", "203.0.113.2", "10.0.0.1", "8.8.8.8", "2001:db8::1", "192.168.1.1"}
	pick := func(list []string) string { return list[rnd.IntN(len(list))] }
	for round := range 50 {
		var all []Observation
		for range 1 + rnd.IntN(20) {
			o := Observation{App: "app", Route: "direct", Addr: netip.MustParseAddr(pick(addrs)), Verdict: "would-deny", Reason: ReasonDefault}
			o.Proto = []Proto{TCP, UDP, ICMP}[rnd.IntN(3)]
			if o.Proto != ICMP {
				o.Port = []uint16{22, 443, 853, 5432}[rnd.IntN(4)]
				if rnd.IntN(2) == 0 {
					o.Claim = pick(names)
				}
			}
			for range rnd.IntN(3) {
				o.Names = appendNew(o.Names, pick(names))
			}
			if rnd.IntN(4) == 0 {
				o = Observation{App: "app", Route: "direct", Question: true, Names: []string{pick(names)}, Verdict: "would-deny"}
			}
			all = append(all, o)
		}
		text := Suggest(all).YAML()
		file, err := ParseFile("learned.yaml", text)
		if err != nil {
			t.Fatalf("round %d: %v in\n%s", round, err, text)
		}
		for _, o := range all {
			if v, reason := replay(t, file, o); v != Allow {
				t.Errorf("round %d: %+v is denied (%s) under\n%s", round, o, reason, text)
			}
			stranger := o
			stranger.Names, stranger.Claim, stranger.Addr = []string{"stranger.example"}, "", netip.MustParseAddr("203.0.113.200")
			if v, _ := replay(t, file, stranger); v == Allow {
				t.Errorf("round %d: %+v passes under\n%s", round, stranger, text)
			}
			if o.Port != 0 {
				other := o
				other.Port = 9999
				if v, _ := replay(t, file, other); v == Allow {
					t.Errorf("round %d: %+v passes under\n%s", round, other, text)
				}
			}
		}
	}
}

// TestQuestionOpensNoFlow: a name that was only asked for can be asked for, and nothing else.
func TestQuestionOpensNoFlow(t *testing.T) {
	p := rules(t, "a.example/dns")
	if d := p.DecideName("a.example", 1); d.Verdict != Allow {
		t.Errorf("question: %+v", d)
	}
	for _, f := range []string{"203.0.113.5:443 asked=a.example", "203.0.113.5:53 udp asked=a.example", "203.0.113.5:443 asked=a.example claim=a.example"} {
		if d := p.Decide(flow(t, f)); d.Verdict != Deny || d.Reason != ReasonDefault {
			t.Errorf("%s: %+v", f, d)
		}
	}
}

func TestSuggestRoutes(t *testing.T) {
	o := Observation{App: "a", Names: []string{"db.example"}, Addr: netip.MustParseAddr("203.0.113.1"), Port: 443, Proto: TCP, Route: "tunnel"}
	direct := o
	direct.Route = "direct"
	text := string(Suggest([]Observation{o, o, direct}).YAML())
	if !strings.Contains(text, `      - "db.example:443/tcp via tunnel"`) || !strings.Contains(text, `      # - "db.example:443/tcp"`) {
		t.Errorf("two routes:\n%s", text)
	}
	if _, err := ParseFile("l.yaml", []byte(text)); err != nil {
		t.Error(err)
	}
}

func TestSuggestOfHostileEvents(t *testing.T) {
	all := []Observation{
		{App: "x\n  evil: {}", Names: []string{"a.example"}, Addr: netip.MustParseAddr("203.0.113.1"), Port: 443, Proto: TCP, Process: "sh\n- \"*\"\u2028"},
		{App: "b", Question: true, Names: []string{"a.example"}, Verdict: "deny", Reason: "x\ny"},
	}
	text := Suggest(all).YAML()
	f, err := ParseFile("l.yaml", text)
	if err != nil || len(f.Apps) != 2 {
		t.Fatalf("%v in\n%s", err, text)
	}
	if strings.Contains(string(text), "evil: {") || strings.Contains(string(text), "\u2028") {
		t.Errorf("\n%s", text)
	}
}

func TestObserve(t *testing.T) {
	connect := func(details string) string {
		return fmt.Sprintf(`{"time":"2026-11-21T10:00:00Z","event":"network-connect","app":"a","details":{%s}}`, details)
	}
	for _, c := range []struct {
		name, line string
		ok, broken bool
	}{
		{"flow", connect(`"dest_ip":"203.0.113.1","dest_port":443,"protocol":"tcp"`), true, false},
		{"echo", connect(`"dest_ip":"203.0.113.1","dest_port":0,"protocol":"icmp"`), true, false},
		{"came in", connect(`"dest_ip":"203.0.113.1","dest_port":443,"protocol":"tcp","direction":"in"`), false, false},
		{"no address", connect(`"dest_port":443,"protocol":"tcp"`), false, true},
		{"no port", connect(`"dest_ip":"203.0.113.1","protocol":"tcp"`), false, true},
		{"port out of range", connect(`"dest_ip":"203.0.113.1","dest_port":70000,"protocol":"tcp"`), false, true},
		{"protocol", connect(`"dest_ip":"203.0.113.1","dest_port":443,"protocol":"sctp"`), false, true},
		{"question", `{"event":"dns-query","details":{"hostname":"A.Example."}}`, true, false},
		{"question for the root", `{"event":"dns-query","details":{"hostname":"."}}`, false, false},
		{"question for localhost", `{"event":"dns-query","details":{"hostname":"localhost"}}`, false, false},
		{"other event", `{"event":"sandbox-start","details":{}}`, false, false},
		{"no JSON", `weir: started`, false, true},
		{"too long", strings.Repeat(" ", MaxEvent+1), false, true},
	} {
		if _, ok, err := Observe([]byte(c.line)); ok != c.ok || (err != nil) != c.broken {
			t.Errorf("%s: %v, %v", c.name, ok, err)
		}
	}
}

// FuzzObserve: whatever an event log holds, the suggested file can be read.
func FuzzObserve(f *testing.F) {
	data, err := os.ReadFile("testdata/suggest/run.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range bytes.Split(data, []byte("\n")) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		o, ok, err := Observe(text)
		if err != nil || !ok {
			return
		}
		out := Suggest([]Observation{o}).YAML()
		file, err := ParseFile("l.yaml", out)
		if err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
		if _, err := New(Config{File: file, App: file.Apps[0].Name}); err != nil {
			t.Fatalf("%v in\n%s", err, out)
		}
	})
}
