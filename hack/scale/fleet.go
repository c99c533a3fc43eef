//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/internal/boxed"
)

// fleet are sandboxes that write to one log.
type fleet struct {
	door    string
	how     boxed.How
	dir     string
	reserve int64
	had     int64 // octets of memory that were available before
	boxes   []*boxed.Box
}

func newFleet(o options, door, dir, self string) *fleet {
	home, err := os.MkdirTemp(dir, "fleet-")
	if err != nil {
		exit(err)
	}
	f := &fleet{door: door, dir: home, reserve: o.reserve}
	f.how = boxed.How{Weir: o.weir, Self: self, Home: home, Args: []string{"--name", "scale", "--mode", "enforce", "--door", door, "--events", f.log()}}
	for _, at := range hosts {
		f.how.Args = append(f.how.Args, "--allow", at.String())
	}
	return f
}

func (f *fleet) log() string { return filepath.Join(f.dir, "events.jsonl") }

// errFull says that the machine has no room for more.
var errFull = errors.New("the machine is full")

// sparePIDs are left to the rest of the machine.
const sparePIDs = 2048

// room says whether the machine has room for more.
func (f *fleet) room() error {
	have := boxed.Available()
	if have < f.reserve {
		return fmt.Errorf("%w: %d MiB of memory are available", errFull, have>>20)
	}
	text, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return err
	}
	most, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	text, err = os.ReadFile("/proc/loadavg") // proc_loadavg(5): the fourth field ends in the number of threads
	if err != nil {
		return err
	}
	_, after, _ := strings.Cut(string(text), "/")
	now, _ := strconv.Atoi(strings.Fields(after)[0])
	if now+sparePIDs > most {
		return fmt.Errorf("%w: %d threads, and kernel.pid_max is %d", errFull, now, most)
	}
	return nil
}

// start starts one more and returns how long that took: until its program said that it runs.
func (f *fleet) start() (time.Duration, error) {
	if err := f.room(); err != nil {
		return 0, err
	}
	begin := time.Now()
	b, err := f.how.Start("program")
	if err != nil {
		return 0, err
	}
	f.boxes = append(f.boxes, b)
	if line, err := b.Answer(); err != nil || line != "ready\n" {
		return 0, fmt.Errorf("start sandbox %d: it said %q, %v", len(f.boxes), line, err)
	}
	return time.Since(begin), nil
}

// stop ends all of them, some at a time, and returns how long that took.
func (f *fleet) stop() (time.Duration, error) {
	begin := time.Now()
	err := f.each(func(b *boxed.Box) error { return b.Stop() })
	f.boxes = nil
	return time.Since(begin), err
}

// each calls do for all of them, at most sixteen at once.
func (f *fleet) each(do func(*boxed.Box) error) error {
	return f.eachOf(16, do)
}

func (f *fleet) eachOf(atOnce int, do func(*boxed.Box) error) error {
	errs := make([]error, len(f.boxes))
	turns := make(chan struct{}, atOnce)
	var work sync.WaitGroup
	for i, b := range f.boxes {
		turns <- struct{}{}
		work.Go(func() {
			defer func() { <-turns }()
			errs[i] = do(b)
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// ask gives all of them the order at once and returns the sum of their answers.
func (f *fleet) ask(order string) (sum int64, err error) {
	var mu sync.Mutex
	err = f.eachOf(max(1, len(f.boxes)), func(b *boxed.Box) error {
		answer, err := b.Ask(order)
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(answer), 10, 64)
		mu.Lock()
		defer mu.Unlock()
		sum += n
		return err
	})
	return sum, err
}

// cost is what weir's processes of all sandboxes take together.
type cost struct {
	launcher, dataPath, init       int64 // memory, octets
	processes, threads, fds        int64
	busy                           time.Duration
	programs                       int64 // memory of the programs inside, which is not weir's
	launcherBusy, dataBusy, inBusy time.Duration
}

func (c cost) memory() int64 { return c.launcher + c.dataPath + c.init }

// look adds up what the processes take.
func (f *fleet) look() (c cost, err error) {
	var launchers []int
	own := map[int]bool{}
	for _, b := range f.boxes {
		launchers, own[b.PID()] = append(launchers, b.PID()), true
	}
	all, err := boxed.Below(launchers...)
	if err != nil {
		return c, err
	}
	for _, p := range all {
		share, err := boxed.Shared(p.PID)
		if err != nil {
			return c, err
		}
		busy := boxed.Busy(p.PID)
		switch {
		case p.Name == f.how.Self:
			c.programs += share
			continue
		case own[p.PID]:
			c.launcher, c.launcherBusy = c.launcher+share, c.launcherBusy+busy
		case strings.HasPrefix(p.Name, "weir-datapath"):
			c.dataPath, c.dataBusy = c.dataPath+share, c.dataBusy+busy
		default:
			c.init, c.inBusy = c.init+share, c.inBusy+busy
		}
		c.processes, c.threads, c.fds, c.busy = c.processes+1, c.threads+int64(p.Threads), c.fds+p.Descriptors, c.busy+busy
	}
	return c, nil
}

// idle leaves everything alone for so long and returns what the processes take, with what they did meanwhile as busy.
func (f *fleet) idle(d time.Duration) (cost, error) {
	before, err := f.look()
	if err != nil {
		return cost{}, err
	}
	time.Sleep(d)
	after, err := f.look()
	after.busy -= before.busy
	after.launcherBusy, after.dataBusy, after.inBusy = after.launcherBusy-before.launcherBusy, after.dataBusy-before.dataBusy, after.inBusy-before.inBusy
	return after, err
}

// logged counts the lines in the log and those that were turned over, that hold the text.
func (f *fleet) logged(text string) (n int64, err error) {
	paths, err := filepath.Glob(f.log() + "*")
	if err != nil {
		return 0, err
	}
	for _, p := range paths {
		file, err := os.Open(p)
		if err != nil {
			return 0, err
		}
		m, err := count(file, []byte(text))
		file.Close()
		if err != nil {
			return 0, err
		}
		n += m
	}
	return n, nil
}

// count counts how often the text is in what it reads.
func count(r io.Reader, text []byte) (n int64, err error) {
	buf := make([]byte, 1<<20)
	kept := 0
	for {
		m, err := r.Read(buf[kept:])
		have := buf[:kept+m]
		n += int64(bytes.Count(have, text))
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		// What may be the beginning of the text stays; the text does not overlap itself.
		if at := bytes.LastIndex(have, text); at >= 0 {
			have = have[at+len(text):]
		}
		kept = copy(buf, have[max(0, len(have)-len(text)+1):])
	}
}
