//go:build linux

package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// doors are the ways in which packets are intercepted. Whatever a program does looks the same through each of them, inside
// and in the event log, but for the differences below.
var doors = []string{"netstack", "tproxy", "both"}

// differences are all scripts that see something else through a door than through netstack, and why. Such a script asks
// which door it runs through ([door:NAME]) and asserts what it finds there; no other script may ask.
var differences = []struct{ script, door, why string }{
	{"ping", "tproxy", "the kernel cannot hand over ICMP: an echo request is dropped, and said in a dropped event (contract, section 7)"},
	{"link", "tproxy", "there is no link, so flags that say of what kind it is are refused"},
	{"engine", "tproxy", "refused: root inside could change the rules and routes that this door is made of"},
	{"engine", "both", "refused, for the same reason"},
	{"bench", "netstack", "it measures every door whichever it is asked through, so once is enough"},
	{"completion", "netstack", "nothing in it goes through a door, so once is enough"},
	{"keys", "netstack", "nothing in it goes through a door, so once is enough"},
}

// TestDifferences: the scripts ask for just those doors that the table has a reason for.
func TestDifferences(t *testing.T) {
	want, got := map[string]bool{}, map[string]bool{}
	for _, d := range differences {
		want[d.script+" through "+d.door] = true
		if d.why == "" || !slices.Contains(doors, d.door) {
			t.Errorf("a difference of %s through %q without a reason", d.script, d.door)
		}
	}
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	asks := regexp.MustCompile(`\[!?door:(\w+)\]`)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range asks.FindAllStringSubmatch(string(text), -1) {
			got[strings.TrimSuffix(filepath.Base(f), ".txtar")+" through "+m[1]] = true
		}
	}
	if w, g := slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got)); !slices.Equal(w, g) {
		t.Errorf("the table has %q\nthe scripts ask for %q", w, g)
	}
}

// sameRow is a program of which every door keeps the same record.
type sameRow struct {
	name, flags, script string
	unlike              unlike
}

// unlike is what two runs through one and the same door need not have in common.
type unlike uint

const (
	// sizes: no two TLS handshakes are of one length, and who closes before it has read the session tickets resets.
	sizes unlike = 1 << iota
	// dropNames: each door calls what it drops by the reason that it sees first.
	dropNames
	// owners: a program that closes its socket at once may be gone before anybody has looked whose it was.
	owners
)

// TestSameEvents: the same program leaves the same events, whatever the door. Compared is all of them but what no two runs
// have in common (time, ids, ports of the kernel's choice), the door's own name, and the order of flows that have nothing to
// do with each other.
func TestSameEvents(t *testing.T) {
	for _, c := range []sameRow{
		{"http", "--allow shop.example", "/run/probe get http://shop.example/", owners},
		{"https", "--allow shop.example", "/run/probe get https://shop.example/", owners | sizes},
		{"http3", "--allow shop.example", "/run/probe get https3://shop.example/", owners | sizes},
		{"ipv6", "--allow [2001:db8:1::20]:7", "/run/probe tcp [2001:db8:1::20]:7 hello; /run/probe udp [2001:db8:1::20]:7 hello", owners},
		{"datagrams", "--allow tools.example:7", "/run/probe udp tools.example:7 hello; for n in 0 1 9000; do /run/probe datagram tools.example:7 $n; done", owners},
		{"who it was", "--allow tools.example:7", `bash -c 'exec 3<>/dev/tcp/tools.example/7 4<>/dev/udp/tools.example/7; echo x >&3; echo y >&4; head -c1 <&3; head -c1 <&4; sleep 1 3>&- 4>&-'`, 0},
		{"who was denied", "--allow shop.example", `bash -c '(exec 3<>/dev/tcp/203.0.113.66/80); exec 4<>/dev/udp/203.0.113.66/80; echo y >&4; sleep 1 4>&-'`, 0},
		{"upload", "--allow tools.example:6", "/run/probe upload tools.example:6 3000000", owners},
		{"download", "--allow tools.example:19", "/run/probe download tools.example:19 3000000", owners},
		{"the server speaks first", "--allow tools.example:22", "/run/probe tcp tools.example:22 hello", owners},
		{"the server ends first", "--allow tools.example:21", "/run/probe after tools.example:21 hello", owners},
		{"the server resets", "--allow tools.example:9999", "/run/probe tcp tools.example:9999 x", owners},
		{"closed", "--allow tools.example:9", "/run/probe tcp tools.example:9; /run/probe udp tools.example:9 x", owners},
		{"unreachable", "--allow 203.0.113.250:80", "/run/probe tcp 203.0.113.250:80", owners},
		{"denied by default", "--allow shop.example", "/run/probe tcp 203.0.113.66:80 x; /run/probe udp 203.0.113.66:80 x; /run/probe get http://evil.example/", owners},
		{"denied by a rule", "--deny 203.0.113.66", "/run/probe tcp 203.0.113.66:80 x; /run/probe udp 203.0.113.66:80 x", owners},
		{"denied by a guard", "--allow @any:*", "/run/probe tcp 169.254.169.254:80 x; /run/probe udp 169.254.169.254:80 x; /run/probe tcp host.weir.internal:7007 x; /run/probe tcp 10.77.0.1:1077 x; /run/probe tcp [fd77::1]:1077 x", owners},
		{"private", "--allow @public:*", "/run/probe tcp db.corp.example:5432 x; /run/probe tcp 10.1.2.3:5432 x", owners},
		{"a lie about the name", "--allow shop.example", "/run/probe tls shop.example:443 sibling.example; /run/probe tls 198.51.100.11:443 shop.example", owners | sizes},
		{"a claim without evidence", "--allow shop.example", "/run/probe tls 198.51.100.10:443 shop.example", owners | sizes},
		{"starttls", "--allow tools.example:5432", "/run/probe postgres tools.example:5432 tools.example; /run/probe postgres tools.example:5432 evil.example", owners | sizes},
		{"dns", "--allow shop.example", "for q in 'dns 10.77.0.1:53' 'dns+tcp 10.77.0.1:53'; do /run/probe $q shop.example A; /run/probe $q shop.example AAAA; /run/probe $q evil.example A; done", owners},
		{"dns of its own", "--allow shop.example --allow 198.51.100.53:53", "/run/probe dns 198.51.100.53:53 shop.example A; /run/probe dns+tcp 198.51.100.53:53 evil.example A", owners},
		{"dns elsewhere is denied", "--allow shop.example", "/run/probe dns 198.51.100.53:53 shop.example A; /run/probe tls 198.51.100.10:853 shop.example", owners},
		{"audit", "--mode audit", "/run/probe get http://evil.example/; /run/probe tcp 10.1.2.3:5432 x; /run/probe tcp 169.254.169.254:80 x", owners},
		{"no tunnel", "--route tunnel --allow tools.example:7", "/run/probe tcp 198.51.100.20:7 x; /run/probe udp 198.51.100.20:7 x", owners},
		{"the host's port", "--host-port 7007", "/run/probe tcp localhost:7007 x; /run/probe tcp host.weir.internal:7007 x", owners},
		{"an answer too late", "--allow tools.example:7", `bash -c 'exec 4<>/dev/udp/tools.example/7; echo y >&4; exec 4>&-; sleep 0.3'`, owners},
		{"nobody's address", "--allow @any:*", "for to in 224.0.0.251:5353 255.255.255.255:7 [ff02::1]:7 0.0.0.0:7; do timeout 2 /run/probe udp $to x & done; wait", owners | dropNames},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			want := eventsThrough(t, "netstack", c)
			if len(want) < 3 {
				t.Fatalf("only %q", want)
			}
			for _, door := range doors[1:] {
				if got := eventsThrough(t, door, c); !slices.Equal(got, want) {
					t.Errorf("through %s:\n%s\nthrough netstack:\n%s", door, without(got, want), without(want, got))
				}
			}
		})
	}
}

// eventsThrough runs a shell script inside and returns its events in the form in which they are the same every time.
func eventsThrough(t *testing.T, door string, c sameRow) []string {
	t.Helper()
	return eventsOf(t, door, c, stateOf(t))
}

// eventsOf is eventsThrough in an environment.
func eventsOf(t *testing.T, door string, c sameRow, env []string) []string {
	t.Helper()
	book := filepath.Join(t.TempDir(), "events")
	args := append([]string{"run", "-q", "--name", "same", "--door", door, "--events", book}, strings.Fields(c.flags)...)
	args = append(args, "--share="+filepath.Join(binDir(), "probe")+":/run/probe:ro", "--share="+world.CAFile()+":/run/ca.pem:ro",
		"--env=SSL_CERT_FILE=/run/ca.pem", "--", "sh", "-c", c.script+"; true")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir(), "weir"), args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", door, err, out)
	}
	text, err := os.ReadFile(book)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	connected := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		var e struct {
			Event, App, Flow string
			Details          map[string]any
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		switch e.Event {
		case "network-connect":
			connected[e.Flow] = true
		case "network-close":
			if !connected[e.Flow] {
				t.Errorf("through %s a flow ends before it has begun: %s", door, line)
			}
		}
		list = append(list, fmt.Sprint(e.Event, " ", c.unlike.normal(e.Details)))
	}
	slices.Sort(list)
	if c.unlike&dropNames != 0 {
		list = slices.Compact(list)
	}
	return list
}

// normal is the details of an event without what differs from run to run.
func (u unlike) normal(details map[string]any) string {
	volatile := []string{"src_port", "duration_ms", "door", "link"}
	if u&sizes != 0 {
		volatile = append(volatile, "bytes_sent", "bytes_received", "close")
	}
	if u&dropNames != 0 {
		volatile = append(volatile, "what", "count")
	}
	if u&owners != 0 {
		volatile = append(volatile, "process")
	}
	for _, name := range volatile {
		delete(details, name)
	}
	if p, ok := details["process"].(map[string]any); ok {
		delete(p, "pid")
	}
	b, _ := json.Marshal(details)
	return string(b)
}

// without are the lines of list that not has not, one each.
func without(list, not []string) string {
	rest := slices.Clone(not)
	var b strings.Builder
	for _, l := range list {
		if i := slices.Index(rest, l); i >= 0 {
			rest = slices.Delete(rest, i, i+1)
		} else {
			fmt.Fprintln(&b, " ", l)
		}
	}
	return b.String()
}
