//go:build linux

package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/internal/playground"
	"github.com/weir-dev/weir/resolver"
)

// inSandbox runs the probe with the flags and returns what it and weir said, and the event log.
func inSandbox(t *testing.T, flags []string, probe ...string) (output string, events []logged, status int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	args := append([]string{"run", "--events", path, "--share=" + filepath.Join(binDir(), "probe") + ":/run/probe:ro"}, flags...)
	cmd := exec.Command(filepath.Join(binDir(), "weir"), append(append(args, "--", "/run/probe"), probe...)...)
	cmd.Env = stateOf(t)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), readLog(t, path), cmd.ProcessState.ExitCode()
}

// logged is what these tests read of an event.
type logged struct {
	Event   string
	Details struct {
		Hostname, Verdict, Reason, Kind, Subject, What string
		Count                                          uint64
		ByKind                                         map[string]uint64 `json:"by_kind"`
	}
}

func readLog(t *testing.T, path string) (events []logged) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var e logged
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		events = append(events, e)
	}
	return events
}

// TestFloodOfDenials: of more than 100,000 denials the log keeps a bounded number and says exactly how many there were;
// the summary and --fail-on count all of them.
func TestFloodOfDenials(t *testing.T) {
	const flood = 110_000
	output, events, status := inSandbox(t, []string{"--summary", "--fail-on", "denied", "--allow", "shop.example"},
		"questions", strconv.Itoa(flood), "10.77.0.1:53", "evil.example")
	if !strings.Contains(output, fmt.Sprint(flood, " answers")) || status != 86 {
		t.Fatalf("status %d: %s", status, output)
	}
	var written, suppressed uint64
	for _, e := range events {
		switch {
		case e.Event == "dns-query" && e.Details.Verdict == "deny":
			written++
		case e.Event == "dropped" && e.Details.What == "events-suppressed":
			suppressed += e.Details.ByKind["dns-query"]
		case e.Event == "dropped" && e.Details.What == "events":
			t.Errorf("%d events were lost besides", e.Details.Count)
		}
	}
	if written+suppressed != flood || written > 40_000 {
		t.Errorf("%d written + %d suppressed, want %d", written, suppressed, flood)
	}
	if last := events[len(events)-1].Event; last != "sandbox-exit" {
		t.Errorf("the log ends with %s", last)
	}
	var counted uint64
	for _, row := range regexp.MustCompile(`(?m)^evil\.example +- +dns +deny +(\d+) `).FindAllStringSubmatch(output, -1) {
		n, _ := strconv.ParseUint(row[1], 10, 64)
		counted += n
	}
	if counted != flood {
		t.Errorf("the summary counts %d:\n%s", counted, output)
	}
}

// TestDNSIsNoWayOut has a program carry data out in names below an allowed suffix. Without weir it gets as far as the time
// lasts; with it, as far as the budget.
func TestDNSIsNoWayOut(t *testing.T) {
	arrived := func(suffix string) (octets int) {
		for _, q := range world.Queries() {
			if name, _, _ := strings.Cut(q, " "); strings.HasSuffix(name, "."+suffix) {
				octets += len(name)
			}
		}
		return octets
	}
	control := exec.Command(filepath.Join(binDir(), "probe"), "leak", playground.DNSServer.String()+":53", "free.example", "1")
	var said bytes.Buffer
	control.Stdout = &said
	if err := playground.Start(control); err != nil {
		t.Fatal(err)
	}
	if err := control.Wait(); err != nil {
		t.Fatal(err)
	}
	free := arrived("free.example")
	if free <= 2*resolver.BudgetOctets {
		t.Fatalf("without weir %d octets got out: that proves nothing\n%s", free, said.String())
	}

	output, events, _ := inSandbox(t, []string{"-q", "--allow", "*.held.example"}, "leak", "10.77.0.1:53", "held.example", "2")
	held := arrived("held.example")
	if held > resolver.BudgetOctets || held < resolver.BudgetOctets/2 {
		t.Errorf("%d octets got out, with a budget of %d\n%s", held, resolver.BudgetOctets, output)
	}
	alerts, refused := 0, 0
	for _, e := range events {
		switch {
		case e.Event == "alert" && e.Details.Kind == "budget" && e.Details.Subject == "held.example":
			alerts++
		case e.Event == "dns-query" && e.Details.Verdict == "deny" && e.Details.Reason == "limit":
			refused++
		}
	}
	if alerts != 1 || refused == 0 {
		t.Errorf("%d alerts, %d refused questions in the log", alerts, refused)
	}
	t.Logf("names that reached the server in 1 s without weir: %d octets; in 2 s, and so in an hour, with it: %d", free, held)
}

// How much more a data path may hold after thousands of flows than before, and how many flows that are here; hack/soak makes
// 50,000.
const (
	backFlows   = 5000
	backRSS     = 32 << 10 // kB, what the runtime keeps of the peak
	backThreads = 16
)

// TestDataPathComesBack: after many flows the data path of a real sandbox holds what it held before.
func TestDataPathComesBack(t *testing.T) {
	r := startReady(t, "weir", "run", "-q", "--allow", "198.51.100.20:*", "--share="+filepath.Join(binDir(), "probe")+":/run/probe:ro",
		"--", "/run/probe", "churn", "198.51.100.20:7", "198.51.100.20:9", "203.0.113.66:80")
	make := func(n int) {
		t.Helper()
		io.WriteString(r.stdin, strconv.Itoa(n)+"\n")
		hung := time.AfterFunc(6*patience, func() { r.cmd.Process.Kill() })
		defer hung.Stop()
		line, err := r.stdout.ReadString('\n')
		if want := fmt.Sprintf("%d flows, %d carried\n", n, n/4); err != nil || line != want {
			t.Fatalf("%q, %v, want %q", line, err, want)
		}
	}
	pid := dataPathOf(t, r.cmd.Process.Pid)
	make(400) // what is made once is there
	before := atRest(t, pid, held{descriptors: -1})
	make(backFlows)
	after := atRest(t, pid, before)
	t.Logf("%+v before, %+v after", before, after)
	if after.descriptors > before.descriptors || after.threads > before.threads+backThreads || after.rss > before.rss+backRSS {
		t.Errorf("not all came back: %+v before %d flows, %+v after", before, backFlows, after)
	}
	r.stdin.Close()
	r.rest(t)
}

// held is what the kernel says a process holds.
type held struct{ rss, threads, descriptors int }

func holdings(t *testing.T, pid int) (h held) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	number := func(key string) int {
		m := regexp.MustCompile(key + `:\s+(\d+)`).FindSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in the status of the data path", key)
		}
		n, _ := strconv.Atoi(string(m[1]))
		return n
	}
	h.rss, h.threads = number("VmRSS"), number("Threads")
	info, err := os.Stat(fmt.Sprintf("/proc/%d/fd", pid)) // its size is their number, also where it must not be read (Linux 6.2)
	if err != nil {
		t.Fatal(err)
	}
	h.descriptors = int(info.Size())
	return h
}

// atRest waits until the process has no more descriptors than want, or than a moment ago.
func atRest(t *testing.T, pid int, want held) held {
	t.Helper()
	last := held{}
	for end := time.Now().Add(patience); ; time.Sleep(300 * time.Millisecond) {
		now := holdings(t, pid)
		if want.descriptors < 0 && now.descriptors == last.descriptors || now.descriptors <= want.descriptors || time.Now().After(end) {
			return now
		}
		last = now
	}
}

// dataPathOf finds the data path by its launcher.
func dataPathOf(t *testing.T, launcher int) int {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range entries {
		line, _ := os.ReadFile(path)
		status, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "status"))
		if bytes.HasPrefix(line, []byte("weir-datapath\x00")) && bytes.Contains(status, fmt.Appendf(nil, "\nPPid:\t%d\n", launcher)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	t.Fatal("no data path")
	return 0
}
