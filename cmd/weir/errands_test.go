package main

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/attribution"
)

// errandPair is the data path's side and the bare other end.
func errandPair(t *testing.T) (*errands, *controlConn) {
	t.Helper()
	launcher, remote, err := newControlPair(maxErrand)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { launcher.Close() })
	e, err := newErrands(remote)
	if err != nil {
		t.Fatal(err)
	}
	return e, launcher
}

var somewhere = netip.MustParseAddrPort("192.0.2.1:80")

func TestErrands(t *testing.T) {
	e, launcher := errandPair(t)
	r := runner{finder: attribution.New(os.Getpid(), nil), log: filepath.Join(t.TempDir(), "new", "log")}
	go r.serve(launcher)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := e.owner("tcp", addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()))
	for end := time.Now().Add(patience); p == nil && time.Now().Before(end); {
		p = e.owner("tcp", addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())) // a machine that is slow enough gave no answer in time
	}
	if p == nil || p.PID != os.Getpid() || strings.Join(p.Args, "|") != strings.Join(os.Args, "|") {
		t.Errorf("owner %+v, want this process %q", p, os.Args)
	}
	if p := e.owner("tcp", somewhere, somewhere); p != nil {
		t.Errorf("owner of no flow: %+v", p)
	}

	f, err := e.open("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || !strings.Contains(string(text), "localhost") {
		t.Errorf("hosts file %q, %v", text, err)
	}
	for _, path := range []string{"/etc/passwd", "/etc/../etc/hosts", "/etc/resolv.conf/", "/", r.log} {
		if f, err := e.open(path); err == nil || f != nil {
			t.Errorf("open %s: %v, %v", path, f, err)
		}
	}
}

// The launcher opens the log of its run and no other, and rotates it when it is long.
func TestErrandsLog(t *testing.T) {
	e, launcher := errandPair(t)
	r := runner{log: filepath.Join(t.TempDir(), "new", "log")}
	go r.serve(launcher)
	files := logFiles{e}
	f, err := files.Open("/tmp/another")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("line\n"); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(r.log); err != nil || string(text) != "line\n" {
		t.Errorf("log %q, %v", text, err)
	}
	if err := files.Rotate("/tmp/another", 1); err == nil {
		t.Error("a short log was rotated")
	}
	if err := f.Truncate(event.DefaultFileSize); err != nil {
		t.Fatal(err)
	}
	if err := files.Rotate("/tmp/another", 1); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(r.log + ".1"); err != nil || info.Size() != event.DefaultFileSize {
		t.Errorf("rotated: %v, %v", info, err)
	}
	e, launcher = errandPair(t)
	go (&runner{}).serve(launcher)
	if f, err := (logFiles{e}).Open(""); err == nil {
		f.Close()
		t.Error("a log was opened in a run whose log is a descriptor")
	}
}

// Questions that are not answered keep nobody, and their number is bounded; late answers are thrown away.
func TestErrandsUnanswered(t *testing.T) {
	e, launcher := errandPair(t)
	e.limit = rate.NewLimiter(rate.Inf, 0)
	refused := make(chan error, maxErrands+1)
	for range maxErrands {
		go func() { _, err := e.ask(errand{File: "x"}, 50*time.Millisecond); refused <- err }()
	}
	for range maxErrands {
		if err := <-refused; !errors.Is(err, errNoErrand) {
			t.Fatal(err)
		}
	}
	if _, err := e.ask(errand{File: "x"}, 50*time.Millisecond); !errors.Is(err, errNoErrand) {
		t.Errorf("one too many: %v", err)
	}
	for range maxErrands {
		var q errand
		if _, err := launcher.receive(&q); err != nil {
			t.Fatal(err)
		}
		if err := launcher.send(errandAnswer{Serial: q.Serial, PID: 1}, os.Stdin); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for {
			var q errand
			if _, err := launcher.receive(&q); err != nil || launcher.send(errandAnswer{Serial: q.Serial, PID: 7, Args: []byte("a\x00\xff\x00")}) != nil {
				return
			}
		}
	}()
	p := e.owner("udp", somewhere, somewhere)
	for end := time.Now().Add(patience); p == nil && time.Now().Before(end); p = e.owner("udp", somewhere, somewhere) {
		time.Sleep(time.Millisecond) // the late answers are still being thrown away
	}
	if p == nil || p.PID != 7 || len(p.Args) != 2 || p.Args[1] != "\xff" {
		t.Errorf("after the jam: %+v", p)
	}
	launcher.Close()
	if p := e.owner("udp", somewhere, somewhere); p != nil {
		t.Errorf("without a launcher: %+v", p)
	}
}

// A flood of flows waits for its turn, and takes none from files.
func TestErrandsOfAFlood(t *testing.T) {
	e, launcher := errandPair(t)
	e.limit = rate.NewLimiter(rate.Inf, 0)
	found := make(chan *event.Process)
	const flows = 4 * maxErrands
	for range flows {
		go func() { found <- e.owner("tcp", somewhere, somewhere) }()
	}
	var asked []errand
	next := func() {
		t.Helper()
		var q errand
		if _, err := launcher.receive(&q); err != nil {
			t.Fatal(err)
		}
		asked = append(asked, q)
	}
	for range maxOwners {
		next()
	}
	opened := make(chan error)
	go func() { _, err := e.open("/etc/hosts"); opened <- err }()
	if next(); asked[maxOwners].File == "" {
		t.Errorf("more than %d flows were asked for at once", maxOwners)
	}
	for answered := range flows + 1 {
		if answered == len(asked) {
			next()
		}
		if err := launcher.send(errandAnswer{Serial: asked[answered].Serial, PID: 7, Error: "no such file"}); err != nil {
			t.Fatal(err)
		}
	}
	for range flows {
		if p := <-found; p == nil || p.PID != 7 {
			t.Fatalf("owner %+v", p)
		}
	}
	if err := <-opened; err == nil || err.Error() != "no such file" {
		t.Errorf("open: %v", err)
	}
}
