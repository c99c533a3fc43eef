//go:build linux

package sandbox

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// needLandlock skips where the kernel has less.
func needLandlock(t *testing.T, abi int) {
	t.Helper()
	if has := landlockABI(); has < abi {
		t.Skipf("this kernel has Landlock ABI %d, and not %d", has, abi)
	}
}

// TestLandlockByABI: each kernel is asked for what it knows, and what it does not hold is not said to be held.
func TestLandlockByABI(t *testing.T) {
	for _, row := range []struct {
		abi   int
		right uint64 // that comes with it
		held  int
	}{
		{0, 0, 0}, {1, 0, 0}, {2, ll.AccessFSRefer, 1}, {3, ll.AccessFSTruncate, 1}, {4, ll.AccessFSTruncate, 1}, {5, ll.AccessFSIoctlDev, 2},
		{6, 0, 3}, {8, 0, 3}, {9, ll.AccessFSResolveUnix, 4}, {11, ll.AccessFSResolveUnix, 4},
	} {
		got := landlockRuleset(row.abi)
		if got.HandledAccessFS&row.right != row.right || len(landlockHeld(row.abi)) != row.held || (got.Scoped != 0) != (row.abi >= 6) {
			t.Errorf("ABI %d: %+v, %v", row.abi, got, landlockHeld(row.abi))
		}
		if row.abi < 9 && got.HandledAccessFS&ll.AccessFSResolveUnix != 0 {
			t.Errorf("ABI %d: asked for what it does not know", row.abi)
		}
	}
}

func TestHeld(t *testing.T) {
	s, err := Start(testSpec("exit 0"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, want := range append(landlockHeld(landlockABI()), HeldNamespaces, HeldCapabilities, HeldSeccomp) {
		if !slices.Contains(s.Held(), want) {
			t.Errorf("held %q lacks %s", s.Held(), want)
		}
	}
	if missing := Missing(s.Held()); len(missing)+len(s.Held()) != len(Missing(nil)) {
		t.Errorf("held %q, missing %q", s.Held(), missing)
	}
}

// TestDescriptorsAreNoMoreThanTheyAre: what is behind a stream can be opened again as the stream is open, and no other way.
func TestDescriptorsAreNoMoreThanTheyAre(t *testing.T) {
	needLandlock(t, abiTruncate)
	for _, row := range []struct {
		name, script string
		flag         int
		left         string
	}{
		{"read a file that is read", `[ "$(cat /proc/self/fd/0)" = host ]`, os.O_RDONLY, "host"},
		{"write a file that is read", `! echo x >/proc/self/fd/0`, os.O_RDONLY, "host"},
		{"append to a file that is read", `! echo x >>/dev/stdin`, os.O_RDONLY, "host"},
		{"write a file that is written", `echo x >/proc/self/fd/0`, os.O_WRONLY, "x\n"},
		{"read a file that is written", `! cat /proc/self/fd/0`, os.O_WRONLY, "host"},
		{"both", `cat /dev/stdin && echo x >/proc/self/fd/0`, os.O_RDWR, "x\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			file := filepath.Join(openDir(t), "file")
			if err := os.WriteFile(file, []byte("host"), 0o666); err != nil {
				t.Fatal(err)
			}
			spec := testSpec("{ " + row.script + "; } >/dev/null 2>&1")
			spec.Stdin = open(t, file, row.flag)
			if got, err := run(spec); err != nil || got.Code != 0 {
				t.Errorf("got %+v, %v", got, err)
			}
			if left, _ := os.ReadFile(file); string(left) != row.left {
				t.Errorf("the file has %q", left)
			}
		})
	}
}

// TestProcessesAreNotTuned: what a process may write about itself below /proc stays as it was.
func TestProcessesAreNotTuned(t *testing.T) {
	needLandlock(t, abiFiles)
	if got, err := run(testSpec(`! { echo 0 >/proc/self/oom_score_adj; } 2>/dev/null && [ $(cat /proc/self/oom_score_adj) -ge 500 ]`)); err != nil || got.Code != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestFilesMove: the second wall is not felt where writing is meant.
func TestFilesMove(t *testing.T) {
	dir := openDir(t)
	spec := testSpec(`set -e
		for d in /tmp /var/tmp /run/user/* /dev/shm $HOME /seen; do
			cd $d; mkdir -p a b; echo x >a/f; mv a/f b/g; ln b/g a/h; ln -s ../b/g a/l; mkfifo a/p; cat a/l; : >b/g; mv a c; rm -r b c
		done
		printf x >/dev/null; echo y >/dev/shm/z; exec 3<>/dev/ptmx; stty -F /dev/ptmx size`)
	spec.Shares = []Share{{Host: dir, Inside: "/seen"}}
	stderr := filepath.Join(openDir(t), "stderr")
	spec.Stderr = open(t, stderr, os.O_CREATE|os.O_WRONLY)
	if got, err := run(spec); err != nil || got.Code != 0 {
		said, _ := os.ReadFile(stderr)
		t.Errorf("got %+v, %v: %s", got, err, said)
	}
}

// TestGroupIsNotKilled: on a shared terminal CMD is in the launcher's process group, and cannot signal the launcher by it.
func TestGroupIsNotKilled(t *testing.T) {
	needLandlock(t, abiScopes)
	self := selfCopy(t)
	for _, c := range callers() {
		t.Run(c.name, func(t *testing.T) {
			cmd := c.launcher(t, self, testSpec(`trap '' HUP; kill -HUP 0; echo outlived''it; exit 6`))
			s := onTerminal(t, cmd)
			s.await("outlivedit")
			s.await("foreground: true")
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 6 {
				t.Errorf("the launcher ended with %v", cmd.ProcessState)
			}
		})
	}
}

// TestSocketThatAppears is the one that needs a kernel of 2026: a socket that is bound in a share while the program runs.
func TestSocketThatAppears(t *testing.T) {
	needLandlock(t, abiUnixSockets)
	dir := openDir(t)
	spec := probeSpec(t, "dial-unix "+dir+"/late.sock")
	spec.Shares = append(spec.Shares, Share{Host: dir})
	out := capture(t, &spec)
	s, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("unix", dir+"/late.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(); err != nil || strings.TrimSpace(out()) != "dial false" {
		t.Errorf("program said %q, %v", out(), err)
	}
}

// TestOwnSockets: the program's own UNIX sockets work, wherever it puts them, in each version of the second wall.
func TestOwnSockets(t *testing.T) {
	spec := probeSpec(t, "own-socket "+filepath.Join("/tmp", "own.sock"))
	out := capture(t, &spec)
	if got, err := run(spec); err != nil || got.Code != 0 || out() != "true\n" {
		t.Errorf("got %+v, %v, %q", got, err, out())
	}
}
