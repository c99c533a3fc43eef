//go:build linux

package gauntlet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weir-dev/weir/internal/playground"
)

// A victim is an ordinary process of the host, of the same user as the sandbox. The token is in its environment and so on
// its stack, in its arguments, and in the file that it has open as descriptor 4; descriptor 3 is a connection to the
// host's loopback. Its program is a file of its own in the stage's directory.
func withVictim(s *Stage) error {
	program := filepath.Join(s.Dir, "victim")
	if err := errors.Join(copyFile("/bin/sleep", program), os.Chmod(program, 0o755)); err != nil {
		return err
	}
	secret, err := s.secret("open-by-victim")
	if err != nil {
		return err
	}
	open, err := os.Open(secret)
	if err != nil {
		return err
	}
	defer open.Close()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", HostLoopbackPort))
	if err != nil {
		return err
	}
	defer conn.Close()
	socket, err := conn.(*net.TCPConn).File()
	if err != nil {
		return err
	}
	defer socket.Close()
	cmd := &exec.Cmd{
		Path: program, Args: []string{"sleep-" + s.Token, "100"}, Env: []string{"SECRET=" + s.Token}, Dir: s.Dir,
		ExtraFiles: []*os.File{socket, open}, SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if err := playground.Start(cmd); err != nil {
		return fmt.Errorf("start victim: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	s.Defer(func() {
		cmd.Process.Kill()
		<-ended
	})
	s.Args["pid"] = strconv.Itoa(cmd.Process.Pid)
	s.ended = ended
	return nil
}

// victimDied is a Harm.
func victimDied(s *Stage) bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// others are the processes that an attacker would try: the host's victim by the number it has there, init, its own parent.
func (a *Attacker) others() []int {
	victim, _ := strconv.Atoi(a.Args["pid"])
	list := []int{victim, 1, os.Getppid()}
	slices.Sort(list[1:])
	list = slices.Compact(list)
	return slices.DeleteFunc(list, func(pid int) bool { return pid <= 0 || pid == os.Getpid() })
}

// anyOther tries the others until one attempt succeeds.
func (a *Attacker) anyOther(try func(pid int) error) error {
	var errs []error
	for _, pid := range a.others() {
		err := try(pid)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("process %d: %w", pid, err))
	}
	return errors.Join(errs...)
}

// peek reads memory of another process.
type peek func(pid int, at uint64, b []byte) (int, error)

func (a *Attacker) readStacks(read peek) error {
	return a.anyOther(func(pid int) error { return a.readStack(pid, read) })
}

// readStack looks for the token where a program's environment is.
func (a *Attacker) readStack(pid int, read peek) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.Contains(line, "[stack]") {
			continue
		}
		var from, to uint64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return err
		}
		b := make([]byte, min(to-from, 64<<10))
		n, err := read(pid, to-uint64(len(b)), b)
		if err != nil {
			return err
		}
		return a.contains(b[:n])
	}
	return errors.New("no stack")
}

// read succeeds if the file can be read and has the token.
func (a *Attacker) read(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return a.contains(b)
}

// write puts the token into a file or socket.
func (a *Attacker) write(w io.WriteCloser) error {
	_, err := io.WriteString(w, a.Token+"\n")
	return errors.Join(err, w.Close())
}

// overwrite puts the token into the file at path.
func (a *Attacker) overwrite(path string, flags int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flags, 0o666)
	if err != nil {
		return err
	}
	return a.write(f)
}

// onThread runs f on a thread that does nothing else afterwards, for what the kernel ties to threads.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		f()
	}()
	<-done
}

// hasToken reports whether a file of the host has the token in it: the usual Harm of attacks on files.
func hasToken(s *Stage, path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && bytes.Contains(b, []byte(s.Token))
}

func isRoot() bool { return os.Geteuid() == 0 }

// soon calls f every few milliseconds until it reports true or patience is over.
func soon(f func() bool) bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return true
		}
	}
	return false
}
