//go:build linux

package tunnel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// edgePort is where the edge of a laboratory listens.
const edgePort = 4433

// patience bounds what has no bound of its own: only a hang reaches it.
const patience = 40 * time.Second

// process is a program of a machine that runs beside the test.
type process struct {
	cmd  *exec.Cmd
	said *words // stdout and stderr
	done chan struct{}
	err  error // how it ended, once done is closed
}

// words collect what a program says.
type words struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// spawn starts a program that is killed at the end of the test, should it still run.
func (m *machine) spawn(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, said: &words{}, done: make(chan struct{})}
	cmd.Stderr = p.said
	if cmd.Stdout == nil {
		cmd.Stdout = p.said
	}
	cmd.WaitDelay = time.Second
	m.start(t, cmd)
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s on %s said:\n%s", strings.Join(cmd.Args[1:min(len(cmd.Args), 6)], " "), m.name, p.said)
		}
	})
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// says waits until the program has said text.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	p.awaitText(t, p.said, text)
}

// says is that of the program inside.
func (r *running) says(t *testing.T, text string) {
	t.Helper()
	r.awaitText(t, r.out, text)
}

func (p *process) awaitText(t *testing.T, w *words, text string) {
	t.Helper()
	await(t, patience, fmt.Sprintf("say %q", text), func() bool {
		ended := closed(p.done)
		if strings.Contains(w.String(), text) {
			return true
		}
		if ended {
			t.Fatalf("it ended before it said %q: %v\n%s%s", text, p.err, w, p.said)
		}
		return false
	})
}

// await polls until ok, and returns how long that took.
func await(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			t.Fatalf("after %v it did not %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// hosted is a laboratory with an edge in the cloud.
type hosted struct {
	*lab
	edge *process
}

// host starts the edge.
func host(t *testing.T, laptops ...string) *hosted {
	t.Helper()
	h := &hosted{lab: newLab(t, laptops...)}
	h.serve(t)
	return h
}

// serve starts the edge process, or starts it again.
func (h *hosted) serve(t *testing.T) {
	t.Helper()
	h.edge = h.cloud.spawn(t, exec.Command(bin("weir"), "serve", "--json", "--tunnel-listen", fmt.Sprintf("%s:%d", cloudAddr, edgePort)))
	h.edge.says(t, `"listening"`)
}

// token makes a one-time token for the space and returns the file that it is in.
func (h *hosted) token(t *testing.T, space, client string) string {
	t.Helper()
	var out, said bytes.Buffer
	cmd := exec.Command(bin("weir"), "keys", "token", "--space", space, "--client", client)
	cmd.Stdout, cmd.Stderr = &out, &said
	h.cloud.start(t, cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("keys token: %v\n%s", err, &said)
	}
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// connect starts a client on the laptop, enrolled for the space as a client of the laptop's name, and waits until the edge has
// it. args are flags of weir connect.
func (h *hosted) connect(t *testing.T, laptop, space string, args ...string) *process {
	t.Helper()
	args = append([]string{"--token-file", h.token(t, space, "laptop-"+laptop)}, args...)
	return h.reconnect(t, laptop, args...)
}

// reconnect is connect for a laptop that has its credentials.
func (h *hosted) reconnect(t *testing.T, laptop string, args ...string) *process {
	t.Helper()
	p := h.laptops[laptop]
	args = append([]string{"connect", "--json", "--tunnel", fmt.Sprintf("https://edge.example:%d", edgePort)}, args...)
	c := p.spawn(t, exec.Command(bin("weir"), args...))
	c.says(t, `"tunnel-up"`)
	return c
}

// sandbox says how a program is run in the cloud.
type sandbox struct {
	space, app, door string
	allow            []string
	flags            []string
}

// events are the lines of an event log.
type events []event

type event struct {
	Event   string         `json:"event"`
	App     string         `json:"app"`
	Sandbox string         `json:"sandbox"`
	Flow    string         `json:"flow"`
	Details map[string]any `json:"details"`
}

// find returns the first event of the kind with these details, each NAME=VALUE; "*" is any value.
func (list events) find(kind string, details ...string) *event {
next:
	for i, e := range list {
		if e.Event != kind {
			continue
		}
		for _, d := range details {
			name, want, _ := strings.Cut(d, "=")
			if got := fmt.Sprint(e.Details[name]); got != want && (want != "*" || e.Details[name] == nil) {
				continue next
			}
		}
		return &list[i]
	}
	return nil
}

func (list events) String() string {
	var text strings.Builder
	for _, e := range list {
		line, _ := json.Marshal(e)
		text.Write(append(line, '\n'))
	}
	return text.String()
}

// running is a sandbox with a program in it.
type running struct {
	*process
	out *words // what the program says; said has what weir says of it
	log string
}

// run starts a program in a sandbox of the cloud whose every flow goes by the tunnel.
func (h *hosted) run(t *testing.T, s sandbox, program ...string) *running {
	t.Helper()
	dir := t.TempDir()
	log := filepath.Join(dir, "events")
	args := []string{"run", "--route", "tunnel", "--space", s.space, "--name", s.app, "--events", log, "--share=" + bin("probe") + ":/run/probe:ro"}
	if s.door != "" {
		args = append(args, "--door", s.door)
	}
	for _, a := range s.allow {
		args = append(args, "--allow", a)
	}
	args = append(append(append(args, s.flags...), "--"), program...)
	cmd, out := exec.Command(bin("weir"), args...), &words{}
	cmd.Stdout = out
	return &running{h.cloud.spawn(t, cmd), out, log}
}

// events reads the log.
func (r *running) events(t *testing.T) (list events) {
	t.Helper()
	text, err := os.ReadFile(r.log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		list = append(list, e)
	}
	return list
}

// finish waits for the end of the program.
func (r *running) finish(t *testing.T) (said string, err error) {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(2 * patience):
		t.Fatalf("it does not end:\n%s", r.said)
	}
	return strings.TrimSpace(r.out.String()), r.err
}

// probe runs tests/probe in a sandbox to its end.
func (h *hosted) probe(t *testing.T, s sandbox, args ...string) (said string, log events) {
	t.Helper()
	r := h.run(t, s, append([]string{"/run/probe"}, args...)...)
	said, _ = r.finish(t)
	return said, r.events(t)
}

// psql is a query in a sandbox.
func psql(t *testing.T) []string {
	return []string{postgresProgram(t, "psql"), "-XAt", "postgresql://app@" + staging + "/postgres", "-c", "select answer from answers"}
}

// doors are those that a program of a tunnel may be behind.
var doors = []string{"netstack", "tproxy"}

// TestStagingDatabase is what the tunnel is for: a hosted program queries the user's staging database by name, as if it ran on
// the user's laptop. Another user's laptop gives the same name another database, and nobody's sandbox sees the other's.
func TestStagingDatabase(t *testing.T) {
	t.Parallel()
	h := host(t, "a", "b")
	for name, p := range h.laptops {
		p.office.postgres(t, netip.AddrPortFrom(stagingOf[name], 5432), "office "+name)
		h.connect(t, name, "space-"+name, "--allow", staging+":5432")
	}
	for _, door := range doors {
		for name := range h.laptops {
			t.Run(door+" "+name, func(t *testing.T) {
				r := h.run(t, sandbox{space: "space-" + name, app: "postgres-mcp", door: door, allow: []string{staging + ":5432"}}, psql(t)...)
				if said, err := r.finish(t); err != nil || said != "office "+name {
					t.Errorf("psql says %q, %v", said, err)
				}
				log := r.events(t)
				e := log.find("network-connect", "dest_port=5432")
				if e == nil {
					t.Fatalf("no event:\n%s", log)
				}
				want := map[string]any{
					"hostname": staging, "name_source": "dns", "dest_ip": stagingOf[name].String(), "dest_port": 5432, "src_ip": "10.77.0.2",
					"protocol": "tcp", "route": "tunnel", "verdict": "allow", "rule": "flag:1", "reason": "", "door": door,
					"sni": "", "http_host": "", "ech": false, "client": "space-" + name + "/laptop-" + name,
				}
				for k, v := range want {
					if fmt.Sprint(e.Details[k]) != fmt.Sprint(v) {
						t.Errorf("%s is %v, want %v", k, e.Details[k], v)
					}
				}
				if fmt.Sprint(e.Details["names"]) != "["+staging+"]" || e.App != "postgres-mcp" || e.Flow == "" || e.Details["process"] == nil {
					t.Errorf("event %s", events{*e})
				}
				if q := log.find("dns-query", "hostname="+staging, "route=tunnel", "verdict=allow", "rcode=NOERROR"); q == nil {
					t.Errorf("no such query:\n%s", log)
				}
				if log.find("network-close", "close=fin") == nil && log.find("network-close", "close=exit") == nil { // whichever is first: psql ends with its connection
					t.Errorf("no such close:\n%s", log)
				}
			})
		}
	}
	t.Run("the other's", func(t *testing.T) {
		before := len(h.laptops["b"].dns.Asked())
		r := h.run(t, sandbox{space: "space-a", app: "spy", allow: []string{stagingOf["b"].String() + ":5432"}}, "/run/probe", "tcp", stagingOf["b"].String()+":5432", "x")
		if said, _ := r.finish(t); !strings.Contains(said, "error") {
			t.Errorf("a sandbox of a reached b's database: %q", said)
		}
		if after := len(h.laptops["b"].dns.Asked()); after != before {
			t.Error("b's DNS was asked for a")
		}
	})
	t.Run("of no space", func(t *testing.T) {
		r := h.run(t, sandbox{space: "space-c", app: "spy", allow: []string{staging + ":5432"}}, psql(t)...)
		if said, err := r.finish(t); err == nil {
			t.Errorf("a sandbox without a client reached a database: %q", said)
		}
	})
	for _, q := range h.dns.Asked() {
		if strings.Contains(q, "internal.example.com") {
			t.Errorf("the cloud's DNS was asked: %s", q)
		}
	}
	if left := h.strayed(); len(left) != 0 {
		t.Errorf("left the cloud by another way: %v", left)
	}
}

// TestClientStops: stopping the command ends what goes through it at once, and nothing takes another way.
func TestClientStops(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	client := h.connect(t, "a", "acme", "--allow", officeEcho.String()+":7")
	s := sandbox{space: "acme", app: "holder", allow: []string{officeEcho.String() + ":7"}}
	at := netip.AddrPortFrom(officeEcho, 7).String()
	r := h.run(t, s, "/run/probe", "hold", at)
	r.says(t, "open")
	client.cmd.Process.Signal(syscall.SIGINT)
	took := await(t, atOnce, "end the flow", func() bool { return closed(r.done) })
	t.Logf("the flow ended %v after the client was told to", took)
	if said, _ := r.finish(t); !strings.Contains(said, "ECONNRESET") {
		t.Errorf("the flow ended with %q", said)
	}
	if e := r.events(t).find("network-close", "close=tunnel-lost"); e == nil {
		t.Errorf("no such close:\n%s", r.events(t))
	}
	await(t, 10*time.Second, "end", func() bool { return closed(client.done) })
	if client.err != nil {
		t.Errorf("the client ended with %v:\n%s", client.err, client.said)
	}
	h.noWayOut(t, s, at)
}

// noWayOut: without a client nothing is reached, the event says why, and nothing leaves the cloud.
func (h *hosted) noWayOut(t *testing.T, s sandbox, at string) {
	t.Helper()
	said, log := h.probe(t, s, "tcp", at, "x")
	if !strings.Contains(said, "error") {
		t.Errorf("without a client it said %q", said)
	}
	if e := log.find("network-connect", "verdict=deny", "reason=no-tunnel"); e == nil {
		t.Errorf("no such event:\n%s", log)
	}
	if left := h.strayed(); len(left) != 0 {
		t.Errorf("left the cloud: %v", left)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestNoClient: whoever has no client reaches nothing, by any protocol, and at once.
func TestNoClient(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	for _, door := range doors {
		s := sandbox{space: "acme", app: "alone", door: door, allow: []string{officeEcho.String() + ":*", staging + ":5432"}}
		h.noWayOut(t, s, netip.AddrPortFrom(officeEcho, 7).String())
		for _, probe := range []string{"udp 10.0.1.7:7 x", "dns 10.77.0.1:53 " + staging + " A", "dns 10.0.1.7:53 " + staging + " A"} {
			said, log := h.probe(t, s, strings.Fields(probe)...)
			if !strings.Contains(said, "error") && !strings.Contains(said, "SERVFAIL") {
				t.Errorf("%s, %s: %q\n%s", door, probe, said, log)
			}
		}
	}
	if left := h.strayed(); len(left) != 0 {
		t.Errorf("left the cloud: %v", left)
	}
	if asked := h.laptops["a"].dns.Asked(); len(asked) != 0 {
		t.Errorf("the office was asked: %v", asked)
	}
}

// TestOwnEdge: weir run --tunnel is an edge of its own, for the time of the run.
func TestOwnEdge(t *testing.T) {
	t.Parallel()
	h := &hosted{lab: newLab(t, "a")}
	token := h.token(t, "acme", "laptop-a")
	s := sandbox{space: "acme", app: "alone", allow: []string{officeEcho.String() + ":7"}, flags: []string{fmt.Sprintf("--tunnel=%s:%d", cloudAddr, edgePort)}}
	r := h.run(t, s, "/run/probe", "hold", "10.0.1.7:7")
	if said, err := r.finish(t); err == nil {
		t.Fatalf("without a client it said %q", said)
	}
	if r.events(t).find("network-connect", "verdict=deny", "reason=no-tunnel") == nil {
		t.Errorf("no such event:\n%s", r.events(t))
	}
	r = h.run(t, s, "/run/probe", "eventually", "hold", "10.0.1.7:7")
	client := h.reconnect(t, "a", "--token-file", token, "--allow", officeEcho.String()+":7")
	await(t, patience, "open a flow", func() bool { return strings.Contains(client.said.String(), `"network-connect"`) })
	r.cmd.Process.Signal(syscall.SIGTERM)
	r.finish(t)
	if r.events(t).find("tunnel-up", "client=acme/laptop-a", "transport=quic") == nil || r.events(t).find("network-connect", "verdict=allow", "client=acme/laptop-a") == nil {
		t.Errorf("no such events:\n%s", r.events(t))
	}
	await(t, patience, "notice the end", func() bool { return strings.Contains(client.said.String(), `"tunnel-down"`) })
	if left := h.strayed(); len(left) != 0 {
		t.Errorf("left the cloud: %v", left)
	}
}

// TestTwoOfASpace: of two laptops of one space one carries a sandbox's flows, always the same one while it is there, and the
// other one when it is not.
func TestTwoOfASpace(t *testing.T) {
	t.Parallel()
	h := host(t, "a", "b")
	clients := map[string]*process{}
	for name := range h.laptops {
		clients[name] = h.connect(t, name, "acme", "--allow", officeEcho.String()+":7")
	}
	carrier := func() string {
		said, log := h.probe(t, echoing, "tcp", echoAt, "hello")
		e := log.find("network-connect", "verdict=allow")
		if said != "hello" || e == nil {
			return ""
		}
		return strings.TrimPrefix(fmt.Sprint(e.Details["client"]), "acme/laptop-")
	}
	r := h.run(t, echoing, "/run/probe", "hold", echoAt)
	r.says(t, "open")
	held := strings.TrimPrefix(fmt.Sprint(r.events(t).find("network-connect", "verdict=allow").Details["client"]), "acme/laptop-")
	clients[held].cmd.Process.Signal(syscall.SIGINT)
	await(t, patience, "end", func() bool { return closed(clients[held].done) })
	other := map[string]string{"a": "b", "b": "a"}[held]
	for range 3 {
		if got := carrier(); got != other {
			t.Errorf("without laptop %s the flow went by %q", held, got)
		}
	}
}
