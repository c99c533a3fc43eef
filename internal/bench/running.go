//go:build linux

package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/playground"
)

// running is a subject with a program in it.
type running struct {
	*Subject
	bench   *Bench
	dir     string    // of this instance
	program *exec.Cmd // what was started: the wrapper, or the program itself
	helper  *exec.Cmd // slirp4netns
	stderr  tail
	ended   sync.Once
	err     error // of the program, once it has ended

	exit  *os.File // closing it ends slirp4netns
	stdin *os.File
	out   *os.File
	in    *bufio.Reader
}

// launch runs program under the subject as an ordinary user of the host. stdin and stdout are ends of pipes that the caller
// owns, or nil. The caller waits.
func (b *Bench) launch(s *Subject, stdin, stdout *os.File, program ...string) (*running, error) {
	b.mu.Lock()
	b.instances++
	dir := filepath.Join(b.dir, fmt.Sprint(b.instances))
	b.mu.Unlock()
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	r := &running{Subject: s, bench: b, dir: dir}
	var err error
	if s.wrap == nil {
		err = r.startSlirp(stdin, stdout, program)
	} else {
		line := s.wrap(dir, program...)
		r.program = exec.Command(line[0], line[1:]...)
		r.connect(stdin, stdout)
		err = playground.Start(r.program)
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Label(), err)
	}
	b.mu.Lock()
	b.live[r] = true
	b.mu.Unlock()
	return r, nil
}

// connect prepares the program: an environment in which it finds nothing of the user's, and a process group of its own, as ^C
// on the terminal is for the one who measures.
func (r *running) connect(stdin, stdout *os.File) {
	b := r.bench
	r.program.Env = append(os.Environ(), "HOME="+b.dir, "XDG_STATE_HOME="+b.dir, "XDG_DATA_HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir,
		"PATH="+filepath.Join(b.dir, mapperDir)+":"+os.Getenv("PATH"))
	r.program.Dir = b.dir
	r.program.Stderr = &r.stderr
	r.program.WaitDelay = time.Second // what outlives the program holds its stderr
	if r.program.SysProcAttr == nil {
		r.program.SysProcAttr = &syscall.SysProcAttr{}
	}
	r.program.SysProcAttr.Setpgid = true
	if stdin != nil {
		r.program.Stdin, r.program.Stdout = stdin, stdout
	}
}

// startSlirp does what slirp4netns(1) shows with unshare(1): a process waits in fresh namespaces, slirp4netns is pointed at
// it, writes to the ready descriptor, and the process goes on to be the program.
func (r *running) startSlirp(stdin, stdout *os.File, program []string) error {
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer tell.Close()
	line := r.bench.part(append([]string{"hold"}, program...)...)
	r.program = exec.Command(line[0], line[1:]...)
	r.program.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	r.connect(stdin, stdout)
	r.program.ExtraFiles = []*os.File{ready}
	if err := playground.Start(r.program); err != nil {
		return err
	}
	end, exit, err := os.Pipe()
	if err != nil {
		return err
	}
	defer end.Close()
	r.exit = exit
	r.helper = exec.Command("slirp4netns", "--configure", "--ready-fd=3", "--exit-fd=4", fmt.Sprint(r.program.Process.Pid), "tap0")
	r.helper.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.helper.ExtraFiles = []*os.File{tell, end}
	r.helper.Stderr = &r.stderr
	r.helper.WaitDelay = time.Second
	if err := playground.Start(r.helper); err != nil {
		r.helper = nil
		r.program.Process.Kill()
		r.program.Wait()
		return err
	}
	return nil
}

// holdMain waits for the word on descriptor 3 and becomes the program.
func holdMain(args []string) error {
	ready := os.NewFile(3, "ready")
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the network: %w", err)
	}
	ready.Close()
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return unix.Exec(path, args, os.Environ())
}

// startClient starts the measuring client under the subject, and looks whether the subject is what it should be.
func (b *Bench) startClient(s *Subject) (*running, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r, err := b.launch(s, inR, outW, b.part("client")...)
	inR.Close()
	outW.Close()
	if err != nil {
		inW.Close()
		outR.Close()
		return nil, err
	}
	r.stdin, r.out, r.in = inW, outR, bufio.NewReaderSize(outR, answerMost)
	a, err := r.ask(order{What: "hello", Target: s.hostPort(b.port)})
	if err != nil {
		return nil, err
	}
	if err := r.identify(); err != nil {
		r.end()
		return nil, err
	}
	s.MTU = int(a.Value)
	return r, nil
}

// ask has the client do something. When the client cannot be asked any more, the subject is ended.
func (r *running) ask(o order) (answer, error) {
	r.out.SetReadDeadline(time.Now().Add(o.For + 3*patience))
	err := json.NewEncoder(r.stdin).Encode(o)
	var a answer
	if err == nil {
		a, err = readAnswer(r.in)
	}
	if err != nil {
		r.end()
		text := r.stderr.String()
		if text == "" {
			text = err.Error()
		}
		return a, fmt.Errorf("its program ended: %s", text)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// answerMost bounds a line of the client's, which is in the sandbox.
const answerMost = 64 << 10

// readAnswer reads one line.
func readAnswer(in *bufio.Reader) (answer, error) {
	var a answer
	line, err := in.ReadSlice('\n')
	if err != nil {
		return a, fmt.Errorf("read answer: %w", err)
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("read answer: %w", err)
	}
	if a.Value < 0 || a.Bytes < 0 || a.Flows < 0 || a.P50 < 0 || a.P99 < 0 {
		return a, errors.New("read answer: a negative number")
	}
	return a, nil
}

// wait waits for the program to end by itself.
func (r *running) wait() error {
	r.ended.Do(func() {
		r.err = r.program.Wait()
		r.bench.mu.Lock()
		delete(r.bench.live, r)
		r.bench.mu.Unlock()
		unix.Kill(-r.program.Process.Pid, unix.SIGKILL) // what outlives it
		if r.helper != nil {
			r.exit.Close()
			r.helper.Wait()
		}
		for _, f := range []*os.File{r.stdin, r.out} {
			f.Close() // nil is no harm
		}
	})
	if r.err != nil {
		return fmt.Errorf("%w: %s", r.err, r.stderr.String())
	}
	return nil
}

// stop ends the client by the end of its orders, and what does not end then by force.
func (r *running) stop() {
	r.stdin.Close()
	late := time.AfterFunc(patience, r.kill)
	defer late.Stop()
	r.wait()
}

// end ends a subject that does not do what it should.
func (r *running) end() {
	r.kill()
	r.wait()
}

// kill ends the program and everything that it started by force. It does not wait.
func (r *running) kill() {
	r.bench.mu.Lock()
	defer r.bench.mu.Unlock()
	if !r.bench.live[r] { // its process ids may be of others by now
		return
	}
	for _, p := range r.processes() {
		unix.Kill(p.pid, unix.SIGKILL)
	}
}

// hostPort is the server's address for the client.
func (s *Subject) hostPort(port int) string { return net.JoinHostPort(s.target, fmt.Sprint(port)) }

// tailMost is how much of what a subject says is kept.
const tailMost = 2 << 10

// tail is a writer that keeps the last lines.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailMost; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// String is the last three lines as one.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}
