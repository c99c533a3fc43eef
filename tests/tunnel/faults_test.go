//go:build linux

package tunnel

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/internal/impair"
)

// The bounds that the issue names, with room for a busy machine.
const (
	atOnce    = 5 * time.Second  // within a second, or a round trip
	afterIdle = 25 * time.Second // within the idle timeout of 15 s
)

// TestMoves: the NAT gives the laptop other ports in the middle of a transfer, again and again. No octet is lost.
func TestMoves(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	p := h.laptops["a"]
	p.link.SetBoth(impair.Settings{Delay: 5 * time.Millisecond, Rate: 50_000_000})
	h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
	r := h.run(t, echoing, "/run/probe", "upload", sumAt.String(), "16777216")
	p.rebindDuring(t, r.done)
	if said, _ := r.finish(t); said != "the same" {
		t.Errorf("afterwards %q", said)
	}
}

// rebindDuring has the NAT change its ports four times in the middle of a transfer of 16 MiB to the laptop, each time when the
// transfer goes on again: an edge looks into a few addresses at one time only (RFC 9000 section 9.3).
func (p *laptop) rebindDuring(t *testing.T, done <-chan struct{}) {
	t.Helper()
	for range 4 {
		from := p.link.Counts(impair.Down).Octets
		await(t, patience, "go on", func() bool { return closed(done) || p.link.Counts(impair.Down).Octets > from+2<<20 })
		if closed(done) || p.link.Rebind() == 0 {
			t.Error("there was nothing to rebind any more")
			return
		}
	}
}

// TestBlackhole: nothing arrives for a while. Flows wait what is shorter than the idle timeout out; what is longer ends them,
// and the client is back by itself when the network is.
func TestBlackhole(t *testing.T) {
	for _, hole := range []time.Duration{time.Second, 5 * time.Second, 20 * time.Second} {
		t.Run(hole.String(), func(t *testing.T) {
			if hole > time.Second {
				long(t)
			}
			t.Parallel()
			h := host(t, "a")
			link := h.laptops["a"].link
			h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
			r := h.run(t, echoing, "/run/probe", "hold", echoAt)
			r.says(t, "open")
			link.SetBoth(impair.Settings{Blackhole: true})
			time.Sleep(hole)
			link.SetBoth(impair.Settings{})
			if hole < 15*time.Second {
				if said, log := h.probe(t, echoing, "upload", sumAt.String(), "1000000"); said != "the same" || closed(r.done) {
					t.Errorf("afterwards %q, and what was open said %q\n%s", said, r.out, log)
				}
				return
			}
			await(t, afterIdle, "end the flow", func() bool { return closed(r.done) })
			if said, _ := r.finish(t); !strings.Contains(said, "ECONNRESET") {
				t.Errorf("the flow ended with %q", said)
			}
			h.reachable(t, 40*time.Second)
		})
	}
}

// reachable waits until a new flow gets through.
func (h *hosted) reachable(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	return await(t, limit, "be reachable again", func() bool {
		said, _ := h.probe(t, echoing, "tcp", echoAt, "hello")
		return said == "hello"
	})
}

// TestUDPBlocked: where UDP never gets through the client takes the WebSocket at once, and all that is to be carried is.
func TestUDPBlocked(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	h.laptops["a"].link.SetBoth(impair.Settings{BlockUDP: true})
	client := h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
	if !strings.Contains(client.said.String(), `"websocket"`) {
		t.Errorf("it is connected by something else:\n%s", client.said)
	}
	for _, args := range [][]string{{"upload", sumAt.String(), "4000000"}, {"sizes", echoAt, "1,1200,1472,9000"}} {
		said, log := h.probe(t, echoing, args...)
		if said != "the same" && said != args[2] {
			t.Errorf("%v: %q\n%s", args, said, log)
		}
	}
}

// TestUDPBlockedLater: flows end within the idle timeout, new ones go by the WebSocket.
func TestUDPBlockedLater(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	client := h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
	r := h.run(t, echoing, "/run/probe", "hold", echoAt)
	r.says(t, "open")
	h.laptops["a"].link.SetBoth(impair.Settings{BlockUDP: true})
	took := await(t, afterIdle, "end the flow", func() bool { return closed(r.done) })
	back := h.reachable(t, 30*time.Second)
	t.Logf("the flow ended after %v, the next one got through %v later", took, back)
	if !strings.Contains(client.said.String(), `"websocket"`) {
		t.Errorf("it is connected by something else:\n%s", client.said)
	}
}

// TestClientKilled: a client that dies without a word is missed within the idle timeout, and a new process takes its place.
func TestClientKilled(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	client := h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
	r := h.run(t, echoing, "/run/probe", "hold", echoAt)
	r.says(t, "open")
	client.kill()
	h.reconnect(t, "a", "--allow", officeEcho.String()+":*")
	took := await(t, afterIdle, "end the flow", func() bool { return closed(r.done) })
	t.Logf("the flow ended after %v", took)
	if said, _ := r.finish(t); !strings.Contains(said, "ECONNRESET") {
		t.Errorf("the flow ended with %q", said)
	}
	h.reachable(t, 10*time.Second)
}

// TestEdgeKilled: when the edge dies its flows end at once; when it is there again the client knows within a round trip.
func TestEdgeKilled(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	client := h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
	r := h.run(t, echoing, "/run/probe", "hold", echoAt)
	r.says(t, "open")
	h.edge.kill()
	took := await(t, atOnce, "end the flow", func() bool { return closed(r.done) })
	t.Logf("the flow ended after %v", took)
	if said, _ := r.finish(t); !strings.Contains(said, "ECONNRESET") {
		t.Errorf("the flow ended with %q", said)
	}
	h.noWayOut(t, echoing, echoAt)
	h.serve(t)
	took = await(t, 30*time.Second, "connect again", func() bool { return strings.Count(client.said.String(), `"tunnel-up"`) > 1 })
	t.Logf("the client was back %v after the edge", took)
	h.reachable(t, 10*time.Second)
}

// TestRevoked: a client that is revoked is out within a second, and stays out.
func TestRevoked(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	client := h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
	r := h.run(t, echoing, "/run/probe", "hold", echoAt)
	r.says(t, "open")
	h.cloud.finish(t, exec.Command(bin("weir"), "keys", "revoke", "--space", "acme", "laptop-a"))
	took := await(t, atOnce, "end the flow", func() bool { return closed(r.done) })
	t.Logf("the flow ended after %v", took)
	await(t, atOnce, "end the client", func() bool { return closed(client.done) })
	if client.err == nil || !strings.Contains(client.said.String(), "revoked") {
		t.Errorf("the client ended with %v:\n%s", client.err, client.said)
	}
	h.noWayOut(t, echoing, echoAt)
	p := h.laptops["a"]
	again := p.spawn(t, exec.Command(bin("weir"), "connect", "--json", "--tunnel", fmt.Sprintf("https://edge.example:%d", edgePort), "--allow", "10.0.0.0/16:*"))
	await(t, patience, "be turned away", func() bool { return closed(again.done) })
	if strings.Contains(again.said.String(), `"tunnel-up"`) {
		t.Errorf("it got in again:\n%s", again.said)
	}
}

// TestNewerWins: two processes of one client do not take turns: the one that came later has the tunnel, the other is told so.
func TestNewerWins(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	older := h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
	newer := h.reconnect(t, "a", "--allow", officeEcho.String()+":*")
	await(t, patience, "give way", func() bool { return closed(older.done) })
	if h.reachable(t, 10*time.Second); closed(newer.done) {
		t.Errorf("both are gone:\n%s", newer.said)
	}
}

// TestEdgeDrains: an edge that is told to end lets what is open go on to its end.
func TestEdgeDrains(t *testing.T) {
	t.Parallel()
	h := host(t, "a")
	h.laptops["a"].link.SetBoth(impair.Settings{Rate: 20_000_000})
	h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
	r := h.run(t, echoing, "/run/probe", "upload", sumAt.String(), "8000000")
	await(t, patience, "begin", func() bool { return h.laptops["a"].link.Counts(impair.Down).Octets > 1_000_000 })
	h.edge.cmd.Process.Signal(syscall.SIGTERM)
	if said, _ := r.finish(t); said != "the same" {
		t.Errorf("the transfer said %q", said)
	}
	await(t, patience, "end", func() bool { return closed(h.edge.done) })
}
