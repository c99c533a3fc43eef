package capture

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/flow/event"
)

// The corpus is public captures with the names that are in them, kept beside the repository: ../shared/corpus from its
// root. truth.tsv lists a name where the project that made the capture and Wireshark agree on it.

// unreachable are names of truth.tsv that we do not find, by "file protocol name", each with the reason.
var unreachable = map[string]string{}

// unlisted are names that are in the captures without a row in truth.tsv; they were looked up with Wireshark. Anything
// else that is found is invented.
var unlisted = map[string]string{
	"suricata/bug-2430__backwards.pcap tls qagpublic.qg1.apps.qualys.com":   "ClientHello inside the CONNECT",
	"zeek/Traces__http__connect-with-header.pcap tls secure.newegg.com":     "ClientHello inside the CONNECT",
	"suricata/decode-teredo-01__input.pcap http ipv6.google.com":            "inside Teredo on unregistered ports",
	"suricata/dns__dns-incomplete__input.pcap dns google.net":               "the first of two questions",
	"suricata/vxlan-decoder-03__vxlan.pcap dns 224.145.196.18.in-addr.arpa": "the PTR question before the listed one",
}

// floor is the recall per protocol, in percent, below which the test fails. Nothing may be invented at all.
const floor = 100

// finding is a name that was read.
type finding struct{ file, protocol, name string }

func (f finding) String() string { return f.file + " " + f.protocol + " " + f.name }

// row is a line of truth.tsv; flow is "SRC -> DST" or, where the project counts records instead, "".
type row struct {
	finding
	flow string
}

func corpus(t *testing.T) (dir string, truth []row) {
	t.Helper()
	dir, err := os.Getwd()
	must(err)
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
	}
	dir = filepath.Join(dir, "..", "shared", "corpus")
	table, err := os.ReadFile(filepath.Join(dir, "truth.tsv"))
	if err != nil {
		t.Skipf("no corpus beside the repository: %v", err)
	}
	for _, line := range strings.Split(string(table), "\n")[1:] {
		f := strings.Split(line, "\t")
		if len(f) < 5 || f[4] != "positive" {
			continue
		}
		r := row{finding: finding{f[0], f[1], comparable(f[1], f[3])}}
		if strings.Contains(f[2], " -> ") {
			r.flow = f[2]
		}
		truth = append(truth, r)
	}
	return dir, truth
}

// comparable is a name as the corpus wants it compared: lower case, no final dot, Host without its port.
func comparable(protocol, name string) string {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if host, _, ok := strings.Cut(name, ":"); ok && protocol == "http" {
		return host
	}
	return name
}

// found collects the findings in a capture, and in which flows they were.
type found struct {
	file  string
	names map[finding][]string
}

func (f *found) Emit(e *event.Event) {
	add := func(protocol, name, flow string) {
		if name != "" {
			key := finding{f.file, protocol, comparable(protocol, name)}
			f.names[key] = append(f.names[key], flow)
		}
	}
	switch d := e.Details.(type) {
	case *event.DNSQuery:
		add("dns", d.Hostname, d.Server)
	case *event.Connect:
		flow := fmt.Sprintf("%s -> %s", flowText(d.Src.String()), flowText(d.Dst.String()))
		add("http", d.HTTPHost, flow)
		if d.Protocol == "udp" {
			add("quic", d.SNI, flow)
		} else {
			add("tls", d.SNI, flow)
		}
	}
}

// flowText writes an endpoint as truth.tsv does: no brackets.
func flowText(s string) string { return strings.NewReplacer("[", "", "]", "").Replace(s) }

// readCorpus reads every file, changed by change.
func readCorpus(t *testing.T, dir string, truth []row, change func(file string, b []byte) []byte) map[finding][]string {
	t.Helper()
	names := make(map[finding][]string)
	files := make(map[string]bool)
	for _, r := range truth {
		files[r.file] = true
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(bytes.NewReader(change(file, b)), &found{file, names}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	return names
}

func unchanged(_ string, b []byte) []byte { return b }

// TestCorpus grades the reader: recall against truth.tsv, and no name that is not there.
func TestCorpus(t *testing.T) {
	dir, truth := corpus(t)
	names := readCorpus(t, dir, truth, unchanged)
	type score struct{ rows, hits, names, right int }
	scores := make(map[string]*score)
	of := func(protocol string) *score {
		if scores[protocol] == nil {
			scores[protocol] = new(score)
		}
		return scores[protocol]
	}
	listed := make(map[finding]bool)
	for _, r := range truth {
		listed[r.finding] = true
		s := of(r.protocol)
		s.rows++
		if hit(names[r.finding], r) {
			s.hits++
		} else if unreachable[r.String()] == "" {
			t.Errorf("missed: %s %s", r.finding, r.flow)
		}
	}
	for f := range names {
		s := of(f.protocol)
		s.names++
		if listed[f] || unlisted[f.String()] != "" {
			s.right++
		} else {
			t.Errorf("invented: %s", f)
		}
	}
	for _, protocol := range slices.Sorted(maps.Keys(scores)) {
		s := scores[protocol]
		t.Logf("%-5s recall %d of %d rows (%d %%), precision %d of %d names", protocol, s.hits, s.rows, 100*s.hits/s.rows, s.right, s.names)
		if 100*s.hits < floor*s.rows {
			t.Errorf("%s: recall is below %d %%", protocol, floor)
		}
	}
}

// hit reports whether a row was found, in the flow that it names. Questions have no client in their events.
func hit(flows []string, r row) bool {
	if r.flow == "" {
		return len(flows) > 0
	}
	if r.protocol == "dns" {
		_, server, _ := strings.Cut(r.flow, " -> ")
		return slices.ContainsFunc(flows, func(f string) bool { return flowText(f) == server })
	}
	return slices.Contains(flows, r.flow)
}

// TestCorpusChanged changes the captures in ways that change nothing about the names in them (or change them in a known
// way): the findings must be the same.
func TestCorpusChanged(t *testing.T) {
	dir, truth := corpus(t)
	original := readCorpus(t, dir, truth, unchanged)
	tests := []struct {
		name   string
		change func(r *rand.Rand, f []timedFrame) []timedFrame
	}{
		{"segments cut at random", splitSegments},
		{"packets out of order", shuffleNear},
		{"packets doubled", doubleSome},
		{"all of it", func(r *rand.Rand, f []timedFrame) []timedFrame {
			return shuffleNear(r, doubleSome(r, splitSegments(r, f)))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(5) {
				got := readCorpus(t, dir, truth, func(_ string, b []byte) []byte {
					return rewrite(b, func(f []timedFrame) []timedFrame { return tt.change(rand.New(rand.NewPCG(seed, 1)), f) })
				})
				same(t, original, got)
			}
		})
	}
	t.Run("other names", func(t *testing.T) {
		want := make(map[finding][]string)
		changed := make(map[finding]bool)
		got := readCorpus(t, dir, truth, func(file string, b []byte) []byte {
			var plain, questions []string
			for f := range original {
				switch {
				case f.file != file || f.protocol == "quic": // encrypted
				case f.protocol == "dns":
					questions = append(questions, f.name)
				default:
					plain = append(plain, f.name)
				}
			}
			b, hits := renameAll(b, plain, questions)
			for f := range original {
				if f.file == file && (f.protocol == "dns" || hits[f.name]) {
					changed[f] = true
				}
			}
			return b
		})
		for f, flows := range original {
			if changed[f] {
				f.name = rot13(f.name)
			}
			want[f] = flows
		}
		same(t, want, got)
		if len(changed) < len(original)*9/10 {
			t.Errorf("only %d of %d names were changed", len(changed), len(original))
		}
	})
}

func same(t *testing.T, want, got map[finding][]string) {
	t.Helper()
	for f, flows := range want {
		if len(got[f]) != len(flows) {
			t.Errorf("found %d times, not %d: %s", len(got[f]), len(flows), f)
		}
	}
	for f := range got {
		if want[f] == nil {
			t.Errorf("made up: %s", f)
		}
	}
}
