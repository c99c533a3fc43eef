//go:build linux

package gauntlet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/internal/playground"
)

// Outcome is what became of a row.
type Outcome string

// The outcomes. Only the first two say something about the sandbox.
const (
	Held   Outcome = "held"   // the attack failed, and the log says so
	Hole   Outcome = "HOLE"   // it reached its aim, or left no trace where there has to be one
	Broken Outcome = "BROKEN" // the row proves nothing: a control failed, or the attack did not run
	Lacks  Outcome = "lacks"  // the host has not got what the attack needs
)

// Result is a row and what became of it; Why is empty for Held.
type Result struct {
	Row     Row
	Outcome Outcome
	Why     string
}

// settle is how long a server may take to say what it heard after the attack has ended, in the control and so in the
// sandbox too.
const settle = 100 * time.Millisecond

// attackTimeout bounds one run of an attack as a whole. Floods take a while on a machine that has other work.
const attackTimeout = 3 * time.Minute

// leak is a weir whose capabilities leak, which is built when the first row asks for it.
type leak struct {
	once sync.Once
	path string
	err  error
}

// Runner runs rows. It lives in the playground. Make it with NewRunner; Close ends the world.
type Runner struct {
	World *World
	// Tool is the sandbox under attack.
	Tool Tool

	dir  string
	self string // this binary, where every sandbox can execute it

	broken     []edit // the leaky weir has them, too
	controlled bool   // the rows had their controls already
	leak       *leak
}

// NewRunner opens the world and puts this binary into dir, which stays the caller's.
func NewRunner(dir string, tool Tool) (*Runner, error) {
	w, err := openWorld()
	if err != nil {
		return nil, err
	}
	r := &Runner{World: w, Tool: tool, leak: &leak{}, dir: dir, self: filepath.Join(dir, "attack")}
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(r.self, self, 0o755)
	}
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("copy attacker: %w", err)
	}
	return r, nil
}

// with returns a runner in the same world for a weir that these breaks were made in, or with another door. Its rows have no
// controls: they had them in the whole weir, through its own.
func (r *Runner) with(tool Tool, stones []Break) *Runner {
	other := &Runner{World: r.World, Tool: tool, dir: r.dir, self: r.self, broken: edits(stones), controlled: true, leak: r.leak}
	if len(stones) > 0 {
		other.leak = &leak{}
	}
	return other
}

// Close ends the world.
func (r *Runner) Close() { r.World.Close() }

// RunAll runs the rows, some at a time, those that want to be alone after the others, and returns the results in the order
// of the rows. done, if not nil, is told each result as it comes.
func (r *Runner) RunAll(rows []Row, atATime int, done func(Result)) []Result {
	results := make([]Result, len(rows))
	var mu sync.Mutex
	run := func(i int) {
		results[i] = r.Run(rows[i])
		if done != nil {
			mu.Lock()
			defer mu.Unlock()
			done(results[i])
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, atATime)
	for i, row := range rows {
		if row.Alone {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			run(i)
			<-slots
		})
	}
	wg.Wait()
	for i, row := range rows {
		if row.Alone {
			run(i)
		}
	}
	return results
}

// Run runs one row: the controls first.
func (r *Runner) Run(row Row) Result {
	if row.Lacks != nil {
		if why := row.Lacks(); why != "" {
			return Result{row, Lacks, why}
		}
	}
	if why := r.controls(row); why != "" {
		return Result{row, Broken, why}
	}
	row = row.through(r.Tool.door)
	if !row.Leaked || !r.Tool.Judges {
		outcome, why := r.attack(row, r.Tool)
		return Result{row, outcome, why}
	}
	first := row
	first.Record, first.Check = nil, nil
	if outcome, why := r.attack(first, r.Tool); outcome != Held {
		return Result{row, outcome, why}
	}
	tool, err := r.leaky()
	if err != nil {
		return Result{row, Broken, err.Error()}
	}
	outcome, why := r.attack(row, tool)
	return Result{row, outcome, why}
}

// controls runs the row where it has to succeed, and says why it did not.
func (r *Runner) controls(row Row) string {
	if r.controlled {
		return ""
	}
	if why := r.control(row, "without a sandbox", Tool{Name: "none", command: plainCommand}, row.Rules); why != "" {
		return why
	}
	if lifted := row.through(r.Tool.door).Lifted; r.Tool.Judges && lifted != nil {
		return r.control(row, "with the rule lifted", r.Tool, lifted)
	}
	return ""
}

// leaky returns a weir that leaves CMD every capability that init has over the sandbox's namespaces, and no filter of
// system calls. It is built when the first row asks for it.
func (r *Runner) leaky() (Tool, error) {
	r.leak.once.Do(func() {
		edits := []edit{
			{"sandbox/command.go", "err := confine(o.Spec);", "err := limitResources();"},
			{"sandbox/command.go", "err := dropOwnPrivileges();", "err := error(nil);"},
		}
		path := filepath.Join(r.dir, "weir-leaky")
		if len(r.broken) > 0 {
			edits, path = append(edits, r.broken...), path+"-broken"
		}
		root, err := moduleRoot()
		if err == nil {
			err = buildEdited(root, path, edits)
		}
		r.leak.path, r.leak.err = path, err
	})
	tool := Weir(r.leak.path, r.Tool.door)
	tool.Name += " with its capabilities leaked"
	return tool, r.leak.err
}

// control runs the attack where nothing is to hold it, and says why it nevertheless failed.
func (r *Runner) control(row Row, where string, tool Tool, rules []string) string {
	s, err := r.stage(row, tool)
	if err != nil {
		return err.Error()
	}
	defer s.close()
	if err := r.run(s, row, tool, rules); err != nil {
		return fmt.Sprintf("%s: %v", where, err)
	}
	if !r.harmed(s, row, true) {
		return fmt.Sprintf("%s the attack failed as well: %s", where, s.said())
	}
	return ""
}

// attack runs it in the sandbox.
func (r *Runner) attack(row Row, tool Tool) (Outcome, string) {
	s, err := r.stage(row, tool)
	if err != nil {
		return Broken, err.Error()
	}
	defer s.close()
	rules := row.Rules
	if rules == nil {
		rules = StandardRules
	}
	if err := r.run(s, row, tool, rules); err != nil {
		if row.Refused != "" && strings.Contains(s.Stderr, row.Refused) && s.Status == 125 {
			if row.Harm != nil && row.Harm(s) {
				return Hole, "refused, but the harm is done: " + s.said()
			}
			return Held, ""
		}
		return Broken, fmt.Sprintf("in %s: %v", tool.Name, err)
	}
	if r.harmed(s, row, false) {
		return Hole, "the attack succeeded: " + s.said()
	}
	if !tool.Judges {
		return Held, ""
	}
	for _, pattern := range s.fill(row.Record) {
		if !s.HasEvent(pattern) {
			return Hole, fmt.Sprintf("held, but the log has no %q; it has:\n%s", pattern, s.Events)
		}
	}
	if row.Check != nil {
		if err := row.Check(s); err != nil {
			return Hole, err.Error()
		}
	}
	return Held, ""
}

func (r *Runner) stage(row Row, tool Tool) (*Stage, error) {
	s, err := newStage(r.World, r.dir, tool)
	if err != nil {
		return nil, err
	}
	if row.Prepare != nil {
		if err := row.Prepare(s); err != nil {
			s.close()
			return nil, fmt.Errorf("prepare: %w", err)
		}
	}
	return s, nil
}

// harmed asks the row's witness, which may need a moment when there is harm.
func (r *Runner) harmed(s *Stage, row Row, wait bool) bool {
	if row.Harm == nil {
		return s.Status == 0
	}
	patience := max(settle, row.Settle)
	if wait {
		patience = 5 * time.Second
	}
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if row.Harm(s) {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// run starts the attack under the tool and waits until it is over. An error says that it did not take place.
func (r *Runner) run(s *Stage, row Row, tool Tool, rules []string) error {
	told, err := json.Marshal(Attacker{ID: row.ID, Token: s.Token, Args: s.Args})
	if err != nil {
		return err
	}
	cmd := tool.command(r, s, s.fill(rules), []string{r.self, attackWord, string(told)})
	home := filepath.Join(s.Dir, "home")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	if s.Neighbour != "" {
		cmd = exec.Command("/bin/sh", withNeighbour(s.Neighbour, s.Dir, cmd.Args)[1:]...)
	}
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_STATE_HOME="+s.Dir+"/state", "XDG_DATA_HOME="+s.Dir+"/data", "XDG_CONFIG_HOME="+s.Dir+"/config")
	cmd.Env = append(cmd.Env, s.Env...)
	cmd.ExtraFiles = s.Files
	if s.Stdin != nil {
		cmd.Stdin = s.Stdin
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.Terminal != nil {
		cmd.Stdin, cmd.SysProcAttr = s.Terminal, &syscall.SysProcAttr{Setsid: true, Setctty: true}
	}
	cmd.WaitDelay = time.Second
	start := playground.Start
	if (row.Privileged || row.Leaked) && tool.Name == "none" {
		start = (*exec.Cmd).Start
	}
	if err := start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", tool.Name, err)
	}
	s.Pid = cmd.Process.Pid
	s.Defer(func() { syscall.Kill(-s.Pid, syscall.SIGKILL) }) // what the sandbox, or its neighbour, left behind
	defer s.during(row)()
	late := time.AfterFunc(attackTimeout, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err = cmd.Wait()
	if !late.Stop() {
		return fmt.Errorf("it did not end within %v", attackTimeout)
	}
	s.Status = cmd.ProcessState.ExitCode()
	s.Stdout, s.Stderr = stdout.String(), stderr.String()
	if tool.Judges {
		events, _ := os.ReadFile(filepath.Join(s.Dir, eventsName))
		s.Events = string(events)
	}
	var exit *exec.ExitError
	switch {
	case !strings.HasPrefix(s.Stdout, began):
		return fmt.Errorf("the attack did not begin (%v): %s", err, s.said())
	case err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay):
		return fmt.Errorf("wait for %s: %w", tool.Name, err)
	}
	return nil
}

// during starts what the row does meanwhile; what it returns ends that.
func (s *Stage) during(row Row) (end func()) {
	if row.During == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		row.During(ctx, s)
	}()
	return func() {
		cancel()
		<-done
	}
}

// said is what the attacker and its sandbox had to say, in one line.
func (s *Stage) said() string {
	text := strings.TrimSpace(strings.TrimPrefix(s.Stdout, began) + "\n" + s.Stderr)
	return fmt.Sprintf("status %d: %.600s", s.Status, strings.ReplaceAll(text, "\n", "; "))
}
