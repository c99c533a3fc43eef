package netstack

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// iperf3Result is what is needed of iperf3 --json.
type iperf3Result struct {
	End struct {
		SumReceived struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		SumSent struct {
			Retransmits int `json:"retransmits"`
		} `json:"sum_sent"`
	} `json:"end"`
}

// BenchmarkTAP runs iperf3 on the host's loopback and from inside a TAP sandbox in turn, and reports both and their
// ratio. Run it with -bench TAP -benchtime 1x; one direction and number of streams takes two times two seconds.
func BenchmarkTAP(b *testing.B) {
	if _, err := exec.LookPath("iperf3"); err != nil {
		b.Skip("no iperf3")
	}
	addr := startIperf3(b)
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	_, port, _ := net.SplitHostPort(addr)
	for _, args := range [][]string{{}, {"-R"}, {"-P", "8"}, {"-P", "8", "-R"}} {
		b.Run(fmt.Sprint("args", args), func(b *testing.B) {
			var host, tap float64
			for range b.N {
				args := append([]string{"-p", port, "-J", "-t", "2"}, args...)
				out, err := exec.Command("iperf3", append([]string{"-c", "127.0.0.1"}, args...)...).Output()
				host += iperf3Gbit(b, string(out), err)
				before := cpuSeconds()
				out2 := tapSandbox(b, Config{}, toHost(fixedAddr{server, addr}, nil), "iperf3", append([]string{"-c", "203.0.113.7"}, args...)...)
				gbit := iperf3Gbit(b, out2, nil)
				b.ReportMetric((cpuSeconds()-before)/(gbit*2/8), "cpu-s/GB")
				tap += gbit
			}
			b.ReportMetric(host/float64(b.N), "host-Gbit/s")
			b.ReportMetric(tap/float64(b.N), "tap-Gbit/s")
			b.ReportMetric(tap/host, "ratio")
		})
	}
}

// fixedAddr is a listener whose address is another's.
type fixedAddr struct {
	net.Listener
	addr string
}

func (f fixedAddr) Addr() net.Addr {
	a, _ := net.ResolveTCPAddr("tcp", f.addr)
	return a
}

// startIperf3 starts a server on a free port of the loopback.
func startIperf3(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().(*net.TCPAddr)
	l.Close()
	cmd := exec.Command("iperf3", "-s", "-B", "127.0.0.1", "-p", strconv.Itoa(addr.Port))
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 100 {
		if c, err := net.Dial("tcp", addr.String()); err == nil {
			c.Close()
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return addr.String()
}

func iperf3Gbit(b *testing.B, out string, err error) float64 {
	b.Helper()
	var r iperf3Result
	if jerr := json.Unmarshal([]byte(out), &r); jerr != nil || err != nil {
		b.Fatalf("iperf3: %v %v\n%s", err, jerr, out)
	}
	return r.End.SumReceived.BitsPerSecond / 1e9
}

// cpuSeconds is this process's user and system time.
func cpuSeconds() float64 {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
