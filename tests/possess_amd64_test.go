//go:build linux

package tests

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// possessed is a process that makes the system calls it is told to, on its main thread, as if it were in the hands of
// somebody who runs code in it: a debugger changes its registers. What the kernel lets it do is what an attacker could.
type possessed struct {
	pid   int
	calls chan call
	gone  chan struct{} // closed when the debugger has let go
}

type call struct {
	nr     uintptr
	args   []any // int, uintptr, or string for a pointer to its octets and a NUL
	result chan callResult
}

type callResult struct {
	value  int
	errno  unix.Errno
	killed unix.Signal // what the call ended the process with
	err    error       // of the debugger
}

// scratch is where strings go, below the stack pointer; nothing of the thread is there.
const scratch = 64 << 10

// possess attaches to the process, which runs this test run's weir. It skips the test where the host forbids that.
func possess(t *testing.T, pid int) *possessed {
	t.Helper()
	p := &possessed{pid: pid, calls: make(chan call), gone: make(chan struct{})}
	attached := make(chan error)
	go p.debug(instruction(t), attached)
	if err := <-attached; errors.Is(err, unix.EPERM) {
		t.Skip("this host lets nobody debug a process that is not dumpable")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.release)
	return p
}

// instruction returns the address of a SYSCALL instruction in weir's text.
func instruction(t *testing.T) uint64 {
	t.Helper()
	f, err := elf.Open(filepath.Join(binDir(), "weir-under-test"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := f.Section(".text")
	code, err := text.Data()
	at := bytes.Index(code, []byte{0x0f, 0x05})
	if err != nil || at < 0 || f.Type != elf.ET_EXEC {
		t.Fatalf("no SYSCALL instruction at a known place in %v: %v", f.Type, err)
	}
	return text.Addr + uint64(at)
}

// do makes one call.
func (p *possessed) do(nr uintptr, args ...any) callResult {
	c := call{nr, args, make(chan callResult, 1)}
	select {
	case p.calls <- c:
		return <-c.result
	case <-p.gone:
		return callResult{err: errors.New("the process is gone")}
	}
}

func (p *possessed) release() {
	select {
	case p.calls <- call{}:
		<-p.gone
	case <-p.gone:
	}
}

// debug is the debugger: ptrace(2) wants all requests from one thread.
func (p *possessed) debug(instruction uint64, attached chan<- error) {
	defer close(p.gone)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := unix.PtraceAttach(p.pid)
	var status unix.WaitStatus
	if err == nil {
		_, err = unix.Wait4(p.pid, &status, unix.WALL, nil)
	}
	var regs unix.PtraceRegs
	if err == nil {
		err = unix.PtraceGetRegs(p.pid, &regs)
	}
	attached <- err
	if err != nil {
		return
	}
	for c := range p.calls {
		if c.result == nil {
			break
		}
		r := p.inject(regs, instruction, c)
		c.result <- r
		if r.killed != 0 || r.err != nil {
			return
		}
	}
	unix.PtraceSetRegs(p.pid, &regs)
	unix.PtraceDetach(p.pid)
}

func (p *possessed) inject(regs unix.PtraceRegs, instruction uint64, c call) (r callResult) {
	to := []*uint64{&regs.Rdi, &regs.Rsi, &regs.Rdx, &regs.R10, &regs.R8, &regs.R9}
	at := (regs.Rsp - scratch) &^ 7
	for i := range to {
		*to[i] = 0
		if i >= len(c.args) {
			continue
		}
		switch a := c.args[i].(type) {
		case int:
			*to[i] = uint64(a)
		case uintptr:
			*to[i] = uint64(a)
		case string:
			if _, r.err = unix.PtracePokeData(p.pid, uintptr(at), append([]byte(a), 0)); r.err != nil {
				return r
			}
			*to[i] = at
			at += uint64(len(a)+8) &^ 7
		}
	}
	regs.Rax, regs.Orig_rax, regs.Rip = uint64(c.nr), ^uint64(0), instruction
	if r.err = unix.PtraceSetRegs(p.pid, &regs); r.err != nil {
		return r
	}
	for {
		if r.err = unix.PtraceSingleStep(p.pid); r.err != nil {
			return r
		}
		var status unix.WaitStatus
		if _, r.err = unix.Wait4(p.pid, &status, unix.WALL, nil); r.err != nil {
			return r
		}
		switch {
		case status.Signaled():
			r.killed = status.Signal()
			return r
		case status.Exited():
			r.err = fmt.Errorf("exited with %d", status.ExitStatus())
			return r
		case status.StopSignal() == unix.SIGTRAP:
			r.err = unix.PtraceGetRegs(p.pid, &regs)
			if r.value = int(regs.Rax); r.value < 0 && r.value > -4096 {
				r.errno, r.value = unix.Errno(-r.value), -1
			}
			return r
		}
		// Another signal, one of the runtime's own, is lost: it sends the next.
	}
}

// unlockedDataPath is weir's data path before it has got its configuration, and so before it locks itself down: what
// succeeds here and fails in a running one, the lock-down refuses.
func unlockedDataPath(t *testing.T) int {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	t.Cleanup(func() { ours.Close() })
	return startUnlocked(t, theirs)
}
