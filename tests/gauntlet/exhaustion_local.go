//go:build linux

package gauntlet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// deniedFlood is how many questions the log floods ask, each denied.
const deniedFlood = 16_000

// logFloodRows go for the log's place.
func logFloodRows() []Row {
	flood := func(a *Attacker, n int) { a.askMany(64, n/64, func(int) string { return a.Token + ".flood.example" }) }
	// unseen is the aim of the last three: an attack that nobody wrote down, because nobody could.
	unseen := func(n int) func(*Attacker) error {
		return func(a *Attacker) error {
			flood(a, n)
			a.tellTCP(at(Evil, 80))
			return a.linger()
		}
	}
	return []Row{
		{
			ID: "exhaustion/denials", Vector: "16,000 denied questions, each a line of the log", Right: "a bounded number is written, and exactly how many there were",
			Source: "security.md 2.6", Rules: floodRules, Check: both(honestHeard, countedExactly),
			Harm: func(s *Stage) bool { return strings.Count(s.written(), s.Token+".flood.example") > 14_000 },
			Attack: func(a *Attacker) error {
				flood(a, deniedFlood)
				return a.linger()
			},
		},
		{
			ID: "exhaustion/full-disk", Vector: "fill the disk that the log is on, then go on unseen", Right: "judged as before; what could not be written is counted",
			Source: "security.md 2.6", Rules: floodRules, Harm: Heard, Check: both(honestHeard, saysLost), Lacks: lacksMounts,
			Prepare: func(s *Stage) error {
				full := filepath.Join(s.Dir, "full")
				if err := os.Mkdir(full, 0o777); err != nil {
					return err
				}
				if err := unix.Mount("tmpfs", full, "tmpfs", 0, "size=64k,mode=777"); err != nil {
					return err
				}
				s.Defer(func() { unix.Unmount(full, unix.MNT_DETACH) })
				s.Flags = []string{"--quiet=false", "--events", filepath.Join(full, eventsName)}
				return nil
			},
			Attack: unseen(2_000),
		},
		{
			ID: "exhaustion/stalled-reader", Vector: "more events than the reader of --events fd:N takes, then go on unseen", Right: "judged as before; what could not be written is counted",
			Source: "security.md 2.6", Rules: floodRules, Harm: Heard, Check: both(honestHeard, saysLost),
			Prepare: func(s *Stage) error {
				r, w, err := os.Pipe()
				if err != nil {
					return err
				}
				s.Defer(func() { r.Close(); w.Close() })
				s.Files, s.Flags = []*os.File{w}, []string{"--quiet=false", "--events", "fd:3"}
				return nil
			},
			Attack: unseen(12_000),
		},
	}
}

// countedExactly is a Check: written and suppressed events are as many as there were questions.
func countedExactly(s *Stage) error {
	written, suppressed := 0, 0
	for line := range strings.Lines(s.Events) {
		var e struct {
			Event   string
			Details struct {
				Hostname, What string
				ByKind         map[string]int `json:"by_kind"`
			}
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return fmt.Errorf("line %q: %w", line, err)
		}
		switch {
		case e.Event == "dns-query" && strings.Contains(e.Details.Hostname, s.Token):
			written++
		case e.Event == "dropped" && e.Details.What == "events-suppressed":
			suppressed += e.Details.ByKind["dns-query"]
		}
	}
	if written+suppressed != deniedFlood {
		return fmt.Errorf("%d written and %d suppressed are not %d", written, suppressed, deniedFlood)
	}
	return nil
}

// saysLost is a Check: weir has said that events are missing.
func saysLost(s *Stage) error {
	if !strings.Contains(s.Stderr, "events could not be written") {
		return fmt.Errorf("nobody says that events are missing: %s", s.said())
	}
	return nil
}

func lacksMounts() string {
	dir, err := os.MkdirTemp("", "weir-mount-")
	if err != nil {
		return "a temporary directory"
	}
	defer os.Remove(dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		return "mounts in a user namespace"
	}
	unix.Unmount(dir, unix.MNT_DETACH)
	return ""
}

// resourceRows take what processes and files are made of.
func resourceRows() []Row {
	return []Row{
		{
			ID: "exhaustion/threads", Vector: "5,000 processes and threads", Right: "at most 4,096",
			Source: "CDK checklist", Lacks: lacksThreads,
			Attack: func(*Attacker) error {
				var ready, over sync.WaitGroup
				over.Add(1)
				for range 5000 {
					ready.Add(1)
					go func() {
						runtime.LockOSThread()
						ready.Done()
						over.Wait()
					}()
				}
				ready.Wait()
				return nil
			},
			Record: []string{"sandbox-exit status=*"},
		},
		filling(Row{
			ID: "exhaustion/files", Vector: "20,000 empty files where programs keep their sockets (/run)", Right: "at most 16,384 fit",
		}, func(dir string) error {
			for i := range 20_000 {
				f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
				if err != nil {
					return err
				}
				f.Close()
			}
			return nil
		}),
		filling(Row{
			ID: "exhaustion/memory-files", Vector: "a file of 80 MiB in memory that nobody counts (/run)", Right: "64 MiB is all there is",
		}, func(dir string) error {
			f, err := os.Create(filepath.Join(dir, "big"))
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.Fallocate(int(f.Fd()), 0, 0, 80<<20)
		}),
	}
}

// tableRows take entries of the kernel's tables.
func tableRows() []Row {
	return []Row{
		{
			ID: "exhaustion/descriptors", Vector: "70,000 descriptors in one process", Right: "at most 65,536",
			Lacks: lacksDescriptors(80_000),
			Attack: func(*Attacker) error {
				var l unix.Rlimit
				if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
					return err
				}
				l.Cur = l.Max
				if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
					return err
				}
				for range 70_000 {
					if _, err := unix.Dup(0); err != nil {
						return err
					}
				}
				return nil
			},
		},
		{
			ID: "exhaustion/neighbours-watches", Vector: "take every inotify instance that the user may have, so that his other programs get none", Right: "at most 64 of them",
			Rules: floodRules, Lacks: lacksInstances, Check: honestHeard,
			During: func(ctx context.Context, s *Stage) {
				for !s.World.Heard(mirrored(s.Token)) {
					if ctx.Err() != nil {
						return
					}
					time.Sleep(2 * time.Millisecond)
				}
				fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
				if errors.Is(err, unix.EMFILE) {
					s.peak.Store(1)
				}
				unix.Close(fd)
			},
			Harm: func(s *Stage) bool { return s.peak.Load() > 0 },
			Attack: func(a *Attacker) error {
				for range 1024 {
					if _, err := unix.InotifyInit1(unix.IN_CLOEXEC); err != nil {
						break
					}
				}
				err := a.linger()
				time.Sleep(holdFor)
				return err
			},
		},
	}
}

// filling is an attack on a file system in memory. Outside, where there is none, it is the disk's directory that is filled.
func filling(r Row, fill func(dir string) error) Row {
	r.Prepare = func(s *Stage) error {
		s.Args["dir"] = s.Dir
		if s.Inside {
			s.Args["dir"] = "/run"
		}
		return nil
	}
	r.Attack = func(a *Attacker) error {
		dir, err := os.MkdirTemp(a.Args["dir"], "fill-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		return fill(dir)
	}
	return r
}

func lacksThreads() string {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NPROC, &l) != nil || l.Max < 8000 {
		return "8,000 processes for one user"
	}
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max", "/sys/fs/cgroup/pids.max"} {
		if n, ok := readNumber(file); ok && n < 8000 {
			return file + " of 8,000"
		}
	}
	var u unix.Utsname
	var major, minor int
	unix.Uname(&u)
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	if os.Getuid() == 0 && (major < 6 || major == 6 && minor < 14) {
		return "a bound on root's processes (Linux 6.14)"
	}
	return ""
}

func lacksInstances() string {
	if n, ok := readNumber("/proc/sys/fs/inotify/max_user_instances"); ok && n >= 80 && n <= 1000 {
		return ""
	}
	return "a usual bound on inotify instances"
}

func readNumber(file string) (int, bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return n, err == nil
}
