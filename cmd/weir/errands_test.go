//go:build linux && !client

package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/flow/event"
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

func TestErrands(t *testing.T) {
	e, launcher := errandPair(t)
	r := runner{log: filepath.Join(t.TempDir(), "new", "log")}
	go r.serve(launcher)

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
		if err := launcher.send(errandAnswer{Serial: q.Serial}, os.Stdin); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		for {
			var q errand
			if _, err := launcher.receive(&q); err != nil || launcher.send(errandAnswer{Serial: q.Serial}, os.Stdin) != nil {
				return
			}
		}
	}()
	f, err := e.open("x")
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); f, err = e.open("x") {
		time.Sleep(time.Millisecond) // the late answers are still being thrown away
	}
	if err != nil {
		t.Fatalf("after the jam: %v", err)
	}
	f.Close()
	launcher.Close()
	if f, err := e.open("x"); err == nil {
		f.Close()
		t.Error("a file without a launcher")
	}
}
