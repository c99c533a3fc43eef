//go:build linux

package lockdown

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// A lock-down is for life, so each test runs what it has to say in a process of its own: this binary with a role.
const roleVariable = "WEIR_LOCKDOWN_TEST_ROLE"

func TestMain(m *testing.M) {
	role, isRole := map[string]func(){
		"landlock": tryFiles, "unlocked": tryFiles, "work": work, "panic": panicLocked, "grow": grow, "launcher": lockedLauncher,
	}[os.Getenv(roleVariable)]
	if !isRole {
		os.Exit(m.Run())
	}
	role()
}

// play runs a role and returns what it said and how it ended.
func play(t *testing.T, role string, args ...string) (stdout, stderr string, state *os.ProcessState) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{roleVariable + "=" + role, "TZ=UTC"}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState
}

// lock is DataPath for roles.
func lock() {
	if _, err := DataPath(); err != nil {
		fmt.Println("lock down:", err)
		os.Exit(1)
	}
}

// TestLandlock holds Landlock alone, which the filter for system calls otherwise stands before.
func TestLandlock(t *testing.T) {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		t.Skipf("this kernel has no Landlock: %v", err)
	}
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	name := "@weir-lockdown-test-" + strconv.Itoa(os.Getpid())
	ln, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()

	want := map[string]bool{"signal": abi < 6, "abstract socket": abi < 6}
	for role, open := range map[string]bool{"unlocked": true, "landlock": false} {
		stdout, stderr, _ := play(t, role, dir, name)
		lines := strings.Split(strings.TrimSpace(stdout), "\n")
		if len(lines) != 2*8 {
			t.Fatalf("%s: said %q, %q", role, stdout, stderr)
		}
		for _, line := range lines {
			what, result, _ := strings.Cut(line, ": ")
			_, attempt, _ := strings.Cut(what, " ")
			if allowed := result == "ok"; allowed != (open || want[attempt]) {
				t.Errorf("%s: %s", role, line)
			}
		}
	}
}

// tryFiles tries what Landlock is to refuse, on a thread that was there before and on one that came later.
func tryFiles() {
	dir, socket := os.Args[1], os.Args[2]
	ask, done := make(chan string), make(chan bool)
	go func() {
		runtime.LockOSThread()
		for thread := range ask {
			tryFilesOn(thread, filepath.Join(dir, thread), filepath.Join(dir, "secret"), socket)
			done <- true
		}
	}()
	ask <- "warm"
	<-done
	if os.Getenv(roleVariable) == "landlock" {
		if _, err := denyFiles(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	ask <- "old"
	<-done
	go func() {
		runtime.LockOSThread()
		tryFilesOn("new", filepath.Join(dir, "new"), filepath.Join(dir, "secret"), socket)
		done <- true
	}()
	<-done
}

func tryFilesOn(thread, path, secret, socket string) {
	try := func(what string, f func() error) {
		result := "ok"
		if err := f(); err != nil {
			result = err.Error()
		}
		if thread != "warm" {
			fmt.Printf("%s %s: %s\n", thread, what, result)
		}
	}
	closing := func(f interface{ Close() error }, err error) error {
		if err == nil {
			f.Close()
		}
		return err
	}
	try("read", func() error { return closing(os.Open(secret)) })
	try("list", func() error { return closing(os.Open(filepath.Dir(secret))) })
	try("make", func() error { return closing(os.Create(path)) })
	try("directory", func() error { return os.Mkdir(path+".d", 0o700) })
	try("rename", func() error {
		if thread == "warm" || os.Getenv(roleVariable) != "landlock" {
			return os.Rename(path, path+".2")
		}
		return os.Rename(filepath.Join(filepath.Dir(path), "warm.2"), path)
	})
	try("look into a process", func() error { return closing(os.Open(fmt.Sprintf("/proc/%d/environ", os.Getppid()))) })
	try("signal", func() error { return unix.Kill(os.Getppid(), 0) })
	try("abstract socket", func() error { return closing(net.Dial("unix", socket)) })
}

// TestWork: what the data path does goes on as before.
func TestWork(t *testing.T) {
	if stdout, stderr, state := play(t, "work"); stdout != "worked\n" || !state.Success() {
		t.Errorf("%v: %q, %q", state, stdout, stderr)
	}
}

// work makes every call that a data path makes and a few more threads than it ever had.
func work() {
	log, err := os.OpenFile(filepath.Join(os.TempDir(), "weir-lockdown-test-"+strconv.Itoa(os.Getpid())), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	fail(err)
	fail(os.Remove(log.Name()))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	fail(err)
	lock()
	dialed, ran := make(chan bool), make(chan bool)
	go func() {
		defer close(ran)
		c, err := ln.Accept()
		fail(err)
		<-dialed
		fail(c.(*net.TCPConn).SetLinger(0))
		fail(c.Close())
	}()
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: time.Second, Count: 4}}
	c, err := d.Dial("tcp", ln.Addr().String())
	fail(err)
	close(dialed)
	<-ran
	fail(c.Close())
	for _, at := range []string{"127.0.0.1:9", "[::1]:9"} {
		if c, err = net.Dial("udp", at); err == nil { // a host without IPv6 has no route
			c.Close()
		} else if !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EAFNOSUPPORT) {
			fail(err)
		}
	}
	_, err = net.InterfaceAddrs()
	fail(err)

	_, err = log.WriteString("a line\n")
	fail(err)
	fail(unix.Flock(int(log.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	fail(log.Truncate(0))
	_, err = os.Stat("/etc/resolv.conf")
	if !errors.Is(err, os.ErrNotExist) {
		fail(err)
	}
	_ = time.Now().Local().String()

	threads := make(chan bool)
	for range 50 {
		go func() {
			unix.Nanosleep(&unix.Timespec{Nsec: 5e6}, nil) // keeps its thread from others
			_ = make([]byte, 1<<20)
			threads <- true
		}()
	}
	for range 50 {
		<-threads
	}
	runtime.GC()
	fmt.Println("worked")
}

func fail(err error) {
	if err != nil {
		_, _, line, _ := runtime.Caller(1)
		fmt.Println("line", line, err)
		os.Exit(1)
	}
}

// TestTracebacks: a crash still says where.
func TestTracebacks(t *testing.T) {
	_, stderr, state := play(t, "panic")
	if state.ExitCode() != 2 || !strings.Contains(stderr, "panic: over") || !strings.Contains(stderr, "lockdown.panicLocked") {
		t.Errorf("%v: %q", state, stderr)
	}
}

func panicLocked() {
	lock()
	panic("over")
}

// TestMemoryLimit: what would take the machine's memory gives the alarm, and ends the process alone. The runtime's last
// words depend on what of it needed memory first.
func TestMemoryLimit(t *testing.T) {
	stdout, stderr, state := play(t, "grow")
	if strings.Contains(stderr, "ThreadSanitizer") {
		t.Skip("the race detector needs memory of its own")
	}
	if stdout != "some\nalarm\n" || state.ExitCode() != 2 || !strings.Contains(stderr, "goroutine") {
		t.Errorf("%v: %q, %q", state, stdout, stderr)
	}
}

// grow reserves memory without touching it, as the heap grows.
func grow() {
	lock()
	var held [][]byte
	const step = 32 << 20
	for alarm := false; len(held) < 2*MemoryMax/step; held = append(held, make([]byte, step)) {
		switch used, soon := OutOfMemory(); {
		case len(held) == 1 && used > step:
			fmt.Println("some")
		case soon && !alarm:
			alarm = true
			fmt.Println("alarm")
		}
	}
	fmt.Println("too much")
	runtime.KeepAlive(held)
}

// TestLauncher: it may use files, but start nothing.
func TestLauncher(t *testing.T) {
	stdout, stderr, state := play(t, "launcher", t.TempDir())
	if status := state.Sys().(syscall.WaitStatus); stdout != "files\n" || status.Signal() != unix.SIGSYS {
		t.Errorf("%v: %q, %q", state, stdout, stderr)
	}
}

func lockedLauncher() {
	child, err := os.StartProcess("/bin/sleep", []string{"sleep", "1000"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}})
	fail(err)
	fail(Launcher())
	fail(os.WriteFile(filepath.Join(os.Args[1], "x"), nil, 0o600))
	fail(os.Rename(filepath.Join(os.Args[1], "x"), filepath.Join(os.Args[1], "y")))
	fail(child.Kill())
	_, err = child.Wait()
	fail(err)
	fmt.Println("files")
	exec.Command("/bin/true").Run()
	fmt.Println("executed")
}

// TestCallsAreKnown: a name that the tables of this architecture do not have would be left out in silence.
func TestCallsAreKnown(t *testing.T) {
	info, err := archInfo()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := map[string][]string{
		"amd64": {"fstatat"},
		"arm64": {"newfstatat", "poll", "fork", "vfork", "iopl", "ioperm", "modify_ldt"},
	}[runtime.GOARCH]
	for _, name := range slices.Concat(dataPathCalls, killCalls, missingCalls) {
		if _, ok := info.SyscallNames[name]; ok == slices.Contains(elsewhere, name) {
			t.Errorf("%s: known on %s: %v", name, runtime.GOARCH, ok)
		}
	}
}
