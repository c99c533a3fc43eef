//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestEnds has the client give every order to the server, without a subject between them.
func TestEnds(t *testing.T) {
	s, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	orders, giveOrders := io.Pipe()
	answers, giveAnswers := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- newClient().serve(orders, giveAnswers) }()
	r := &running{in: bufio.NewReaderSize(answers, answerMost)}
	flows := 0
	for _, c := range []struct {
		order
		flows       int
		unit, bytes bool // there is a value; bytes were carried
	}{
		{order{What: "hello"}, 0, false, false},
		{order{What: "up", Streams: 2}, 2, true, true},
		{order{What: "down", Streams: 2}, 2, true, true},
		{order{What: "rr", Streams: 3}, 3, true, false},
		{order{What: "idle", Streams: 5}, 5, true, false},
		{order{What: "release"}, 0, false, false},
		{order{What: "udp-up", Streams: 1}, 2, true, true},
		{order{What: "udp-down", Streams: 1}, 1, true, true},
		{order{What: "crr", Streams: 2}, -1, true, false},
		{order{What: "dance"}, 0, false, false},
	} {
		c.For = 30 * time.Millisecond
		if c.What != "hello" {
			c.Target = (&Subject{target: "127.0.0.1"}).hostPort(s.port())
		}
		if err := json.NewEncoder(giveOrders).Encode(c.order); err != nil {
			t.Fatal(err)
		}
		a, err := readAnswer(r.in)
		if err != nil {
			t.Fatal(err)
		}
		if (a.Error != "") != (c.What == "dance") {
			t.Errorf("%s: %s", c.What, a.Error)
		}
		if (a.Value > 0) != c.unit || (a.Bytes > 0) != c.bytes {
			t.Errorf("%s: value %v, %d bytes", c.What, a.Value, a.Bytes)
		}
		if (c.What == "rr" || c.What == "crr") && (a.P50 <= 0 || a.P99 < a.P50) {
			t.Errorf("%s: p50 %v, p99 %v", c.What, a.P50, a.P99)
		}
		if opened := a.Flows - flows; opened != c.flows && (c.flows >= 0 || opened < 2) {
			t.Errorf("%s opened %d flows, want %d", c.What, opened, c.flows)
		}
		flows = a.Flows
	}
	giveOrders.Close()
	if err := <-ended; err != nil {
		t.Errorf("the client ended with %v", err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	for name, line := range map[string]string{
		"no end": strings.Repeat("x", answerMost+1), "no JSON": "hello\n", "negative": `{"Flows":-1}` + "\n", "cut off": `{"Value":1}`, "nothing": "",
	} {
		if a, err := readAnswer(bufio.NewReaderSize(strings.NewReader(line), answerMost)); err == nil {
			t.Errorf("%s: was taken for %v", name, a)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"Value":1.5,"Bytes":7,"P50":1,"P99":2,"Flows":3,"Error":""}` + "\n"))
	f.Add([]byte("{}\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAnswer(bufio.NewReaderSize(bytes.NewReader(b), answerMost))
		if err == nil && (a.Value < 0 || a.Bytes < 0 || a.Flows < 0) {
			t.Errorf("%v was taken", a)
		}
	})
}

// FuzzServer has a server read what no client of ours sends.
func FuzzServer(f *testing.F) {
	for op := range byte(8) {
		f.Add(append(head(op, 1000), make([]byte, messageSize)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headSize && b[1] == opSource {
			copy(b[8:], head(0, 1000)[8:]) // a microsecond of sending, instead of what is asked
		}
		s := &server{floods: map[uint64]*flood{}}
		near, far := net.Pipe()
		go func() {
			near.Write(b)
			near.Close()
		}()
		go io.Copy(io.Discard, near)
		s.serveConn(far)
	})
}

const statStatus = "Name:\tweir) (x\nPPid:\t7\nVmHWM:\t  300 kB\nVmRSS:\t     200 kB\nRssFile:\t  100 kB\n"

func TestParseProcess(t *testing.T) {
	p := parseProcess(42, statStatus, "42 (weir) (x) S 7 40 40 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0\n")
	want := process{pid: 42, parent: 7, group: 40, name: "weir) (x", rss: 200 << 10, peak: 300 << 10, file: 100 << 10, cpu: 2 * time.Second}
	if p != want {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
}

func FuzzParseProcess(f *testing.F) {
	f.Add(statStatus, "42 (weir) S 7 40 40 0 -1 4194560 1 0 0 0 150 50 0 0\n")
	f.Add("", ") ")
	f.Fuzz(func(t *testing.T, status, stat string) { parseProcess(1, status, stat) })
}

func TestBelow(t *testing.T) {
	table := []process{{pid: 12, parent: 11, group: 12}, {pid: 10, parent: 1, group: 10}, {pid: 11, parent: 10, group: 10}, {pid: 13, parent: 1, group: 10}, {pid: 14, parent: 1, group: 14}, {pid: 15}}
	var pids []int
	for _, p := range below(table, 10, 0) {
		pids = append(pids, p.pid)
	}
	if want := []int{12, 10, 11, 13}; !slices.Equal(pids, want) { // a child that left the group, and an orphan that did not
		t.Errorf("got %v, want %v", pids, want)
	}
}

func TestTogetherCountsSharedPagesOnce(t *testing.T) {
	list := []process{{rss: 50, file: 30}, {rss: 45, file: 30}, {rss: 12, file: 10}}
	rss := func(p process) int64 { return p.rss }
	if got := total(list, rss); got != 107 {
		t.Errorf("sum %d, want 107", got)
	}
	if got := together(list, rss); got != 20+15+2+30 {
		t.Errorf("together %d, want 67", got)
	}
}

const bookText = `{"time":"2026-11-21T10:00:00Z","event":"sandbox-start","app":"bench","sandbox":"a","details":{"command":["x"],"door":"tproxy","link":"tproxy"}}
{"time":"2026-11-21T10:00:00Z","event":"network-connect","app":"bench","sandbox":"a","flow":"a-1","details":{}}
{"time":"2026-11-21T10:00:00Z","event":"network-close","app":"bench","sandbox":"a","flow":"a-1","details":{}}
{"time":"2026-11-21T10:00:00Z","event":"dropped","app":"bench","sandbox":"a","details":{"what":"events-suppressed","count":50,"by_kind":{"network-connect":30,"network-close":20}}}
`

// TestBook: a log in two files, as it is after a rotation, with events that were too many to be written.
func TestBook(t *testing.T) {
	dir := t.TempDir()
	if _, err := readBook(dir); err == nil {
		t.Error("a log that is not there was read")
	}
	first, rest, _ := strings.Cut(bookText, "\n")
	os.WriteFile(filepath.Join(dir, eventsFile+".1"), []byte(first+"\n"), 0o600)
	os.WriteFile(filepath.Join(dir, eventsFile), []byte(rest), 0o600)
	got, err := readBook(dir)
	if want := (book{door: "tproxy", link: "tproxy", connects: 31}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func FuzzBook(f *testing.F) {
	f.Add([]byte(bookText))
	f.Add([]byte(`{"event":"sandbox-start","details":3}`))
	f.Fuzz(func(t *testing.T, b []byte) { (&book{}).read(b) })
}

func TestPeerNames(t *testing.T) {
	for _, name := range append(PeerNames(), "pasta-1500", "gvisor-tap-vsock-9000") {
		if err := CheckPeer(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "weir", "pasta1500", "pasta-", "pasta-12", "pasta-65536", "slirp4netns-1500", "pasta-1500-1500", "pasta-0x5dc"} {
		if CheckPeer(name) == nil {
			t.Errorf("%q is taken for a peer", name)
		}
	}
	s := peer("pasta-1500")
	if s.Label() != "pasta 1500" || s.lack == nil && !slices.Equal(s.wrap("/d", "true"), []string{"pasta", "--config-net", "--mtu=1500", "--", "true"}) {
		t.Errorf("pasta-1500 is %s", s.Label())
	}
	t.Setenv("PATH", "")
	if s := peer("gvisor-tap-vsock"); s.lack == nil || s.lack.Error() != "rootlesskit is not installed" {
		t.Errorf("without rootlesskit: %v", s.lack)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var w tail
	for range 100 {
		w.Write([]byte(strings.Repeat("noise ", 100) + "\n"))
	}
	w.Write([]byte("one\ntwo\nthree\n"))
	if got := w.String(); got != "one; two; three" || len(w.text) > tailMost {
		t.Errorf("%d bytes: %q", len(w.text), got)
	}
}
