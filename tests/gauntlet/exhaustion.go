//go:build linux

package gauntlet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// These rows want more than there is. A flood that nobody bounds succeeds without weir; the witness counts, outside, how much
// of it there was. In weir there is less, and the attacker itself, once it stops, is served again: a bound that ends the
// sandbox for good would be a way to break it. They run alone, for the sake of the others.
func exhaustionRows() []Row {
	rows := slices.Concat(flowFloodRows(), fragmentFloodRows(), questionFloodRows(), logFloodRows(), resourceRows(), tableRows())
	for i := range rows {
		rows[i].Alone = true
	}
	return rows
}

// BlackHole answers nobody: what is dialled there hangs.
var BlackHole = netip.MustParseAddr("203.0.113.10")

// holdFor is how long a flood is held so that a witness can count it.
const holdFor = 300 * time.Millisecond

// floodRules allow the flood and what is said after it.
var floodRules = []string{"--mode", "enforce", "--allow", Shop.String() + ":*", "--allow", BlackHole.String() + ":80"}

// flowFloodRows open flows.
func flowFloodRows() []Row {
	return []Row{
		{
			ID: "exhaustion/half-open", Vector: "1,500 connections to a server that never answers, in one sandbox beside another", Right: "at most 1,024 are dialled; the other sandbox is served",
			Source: "security.md 2.6", Rules: floodRules, Harm: onWire(1100), Record: dropped("drop-tcp-half-open"), Check: both(honestHeard, neighbourHeard),
			Prepare: func(s *Stage) error {
				seen := map[[2]byte]bool{}
				hole := BlackHole.As4()
				return s.watchWire(func(f []byte) bool {
					if len(f) < 38 || !bytes.Equal(f[30:34], hole[:]) || seen[[2]byte(f[34:36])] {
						return false
					}
					seen[[2]byte(f[34:36])] = true
					return true
				})
			},
			During: runNeighbour,
			Attack: func(a *Attacker) error {
				if a.Args["act"] == "neighbour" {
					return a.linger()
				}
				before, err := dial("udp4", at(Shop, 7))
				if err != nil {
					return err
				}
				if err := insist(before, "hello"); err != nil {
					return err
				}
				fds, err := dialAll(1500)
				if err != nil {
					return err
				}
				defer closeAll(fds)
				if err := insist(before, a.Token); err != nil { // now the neighbour may come
					return err
				}
				time.Sleep(2 * holdFor)
				return insist(before, mirrored(a.Token)) // what was carried before goes on
			},
		},
		{
			ID: "exhaustion/datagram-flows", Vector: "3,000 UDP flows at once, each a socket of the host", Right: "at most 1,024 at a time; the one that was quiet for longest makes room",
			Source: "security.md 2.6", Rules: floodRules, Check: honestHeard,
			During: func(ctx context.Context, s *Stage) { s.countSockets(ctx, netip.AddrPortFrom(Shop, 7)) },
			Harm:   func(s *Stage) bool { return s.peak.Load() > 1100 },
			Attack: func(a *Attacker) error {
				var open []net.Conn
				for range 3000 {
					c, err := dial("udp4", at(Shop, 7))
					if err != nil {
						return err
					}
					open = append(open, c)
					c.Write([]byte("x"))
				}
				time.Sleep(holdFor)
				for _, c := range open {
					c.Close()
				}
				return a.lingerAtLast()
			},
		},
		{
			ID: "exhaustion/connections", Vector: "8,500 connections to an allowed server, all kept", Right: "8,192 are carried, the others refused at once, and counted",
			Source: "smokescreen #280, smokescreen #284", Rules: floodRules, Record: dropped("reject-tcp-flows"), Check: honestHeard, Lacks: lacksDescriptors(20_000),
			Prepare: func(s *Stage) error { return s.openSink() }, Harm: func(s *Stage) bool { return s.peak.Load() > 8200 },
			Attack: func(a *Attacker) error {
				open, err := connectAll(a.Args["sink"], 8500)
				fmt.Println(len(open), "connections:", err)
				time.Sleep(holdFor)
				for _, c := range open {
					c.Close()
				}
				return a.lingerAtLast()
			},
		},
	}
}

// fragmentFloodRows begin packets.
func fragmentFloodRows() []Row {
	return []Row{onTheLink(Row{
		ID: "exhaustion/unfinished-fragments", Vector: "4,000 packets of which only the first fragment comes", Right: "few of them wait, the others are dropped and counted; what is whole still passes",
		Source: "security.md 2.4, zeek ipv6-reassembly-state-leak", Prepare: tokenOnWire, Harm: onWire(1000), Record: dropped("drop-fragment-table"),
	}, func(a *Attacker, w *wire) error {
		for i := range 4000 {
			p := w.udp4(Shop, a.Token+strings.Repeat("x", 1400-len(a.Token)))
			p.fragment, p.id = moreFragments, uint16(10_000+i)
			if err := w.packet(p.bytes()); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
		return nil
	})}
}

// dialAll begins n connections to the black hole.
func dialAll(n int) (fds []int, err error) {
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: BlackHole.As4()}); err != unix.EINPROGRESS {
			return fds, err
		}
	}
	return fds, nil
}

// insist says a datagram until it comes back: in a flood one may be lost.
func insist(c net.Conn, text string) error {
	b := make([]byte, 256)
	for end := time.Now().Add(2 * patience); time.Now().Before(end); {
		c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		c.Write([]byte(text))
		for {
			n, err := c.Read(b) // what came back late may be first
			if err == nil && string(b[:n]) == text {
				return nil
			}
			if err != nil {
				break
			}
		}
	}
	return errors.New("no answer in the flood")
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// connectAll makes n connections, some at a time, and returns those that it got, with the last error.
func connectAll(address string, n int) (open []net.Conn, last error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range (n + 15) / 16 {
				c, err := net.DialTimeout("tcp4", address, patience)
				mu.Lock()
				if err == nil {
					open = append(open, c)
				} else {
					last = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return open, last
}

// lingerAtLast lingers once there is room again, which may take a moment.
func (a *Attacker) lingerAtLast() error {
	var err error
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = a.linger(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("not served any more after the flood: %w", err)
}

// openSink opens a server of this run's own, Args["sink"], that keeps every connection and remembers the most it had.
func (s *Stage) openSink() error {
	ln, err := s.World.Listen(netip.AddrPortFrom(Shop, 0))
	if err != nil {
		return err
	}
	s.Defer(func() { ln.Close() })
	s.Args["sink"] = ln.Addr().String()
	var open atomic.Int64
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.peak.Store(max(s.peak.Load(), open.Add(1)))
			go func() {
				drain(c)
				open.Add(-1)
			}()
		}
	}()
	return nil
}

// countSockets remembers the most UDP sockets that the host had to this server at one time.
func (s *Stage) countSockets(ctx context.Context, to netip.AddrPort) {
	a := to.Addr().As4()
	slices.Reverse(a[:])                                        // as the kernel prints it on a little-endian machine
	remote := []byte(fmt.Sprintf(" %X:%04X 01 ", a, to.Port())) // established
	for ctx.Err() == nil {
		text, _ := os.ReadFile("/proc/net/udp")
		s.peak.Store(max(s.peak.Load(), int64(bytes.Count(text, remote))))
		time.Sleep(10 * time.Millisecond)
	}
}

// lacksDescriptors says whether a process of the host may not have n of them.
func lacksDescriptors(n uint64) func() string {
	return func() string {
		var l unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) != nil || l.Max < n {
			return fmt.Sprintf("%d descriptors for one process", n)
		}
		return ""
	}
}

// runNeighbour runs another sandbox while the attacker holds what it has taken; only weir has one.
func runNeighbour(ctx context.Context, s *Stage) {
	if s.Weir == "" {
		return
	}
	for !s.World.Heard(s.Token) {
		if ctx.Err() != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	told, _ := json.Marshal(Attacker{ID: "exhaustion/half-open", Token: "neighbour" + s.Token, Args: map[string]string{"act": "neighbour"}})
	self := filepath.Join(filepath.Dir(s.Dir), "attack")
	cmd := exec.Command(s.Weir, append(append([]string{"run", "-q", "--name", "neighbour", "--share", self + ":" + inside + ":ro"}, floodRules...), "--", inside, attackWord, string(told))...)
	cmd.Env = append(os.Environ(), "HOME="+s.Dir, "XDG_STATE_HOME="+s.Dir, "XDG_DATA_HOME="+s.Dir)
	cmd.Dir = s.Dir
	cmd.Run()
}

// neighbourHeard is a Check: the other sandbox was served.
func neighbourHeard(s *Stage) error {
	if !s.World.Heard(mirrored("neighbour" + s.Token)) {
		return errors.New("the other sandbox was not served")
	}
	return nil
}

// both is a Check made of two.
func both(a, b func(*Stage) error) func(*Stage) error {
	return func(s *Stage) error { return errors.Join(a(s), b(s)) }
}

// questionFloodRows ask.
func questionFloodRows() []Row {
	return []Row{
		{
			ID: "exhaustion/questions", Vector: "4,000 different names below an allowed one", Right: "at most 2,000 reach the host's resolver; then they are refused, with an alert",
			Source: "microsandbox #675, klangk PR #2248", Rules: append([]string{"--allow", "*.{token}.example"}, floodRules...), Check: honestHeard,
			Harm:   func(s *Stage) bool { return s.World.askedAbout(s.Token) > 2500 },
			Record: []string{"dns-query verdict=deny reason=limit", "alert kind=budget subject=*"},
			Attack: func(a *Attacker) error {
				a.askMany(40, 100, func(i int) string { return "n" + strconv.Itoa(i) + "." + a.Token + ".example" })
				return a.linger()
			},
		},
		{
			ID: "exhaustion/idle-questioners", Vector: "200 TCP connections to the resolver that never ask", Right: "at most 64 are kept; questions are answered all the same",
			Source: "security.md 2.6", Rules: floodRules, Check: honestHeard,
			Harm: func(s *Stage) bool { return !strings.Contains(s.Stdout, "were closed") },
			Attack: func(a *Attacker) error {
				kept, err := a.keepAsking(200)
				if err != nil {
					return err
				}
				if kept < 150 {
					fmt.Println(200-kept, "were closed")
				}
				if _, err := a.ask("udp", "", "shop.example", 1); err != nil && !strings.Contains(err.Error(), "NXDOMAIN") {
					return fmt.Errorf("no answer any more: %w", err)
				}
				return a.linger()
			},
		},
	}
}

// askMany asks n questions in each of some workers at a time.
func (a *Attacker) askMany(workers, n int, name func(i int) string) {
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range n {
				a.ask("udp", "", name(w*n+i), 1)
			}
		})
	}
	wg.Wait()
}

// keepAsking opens n connections to the resolver and returns how many are still open a little later.
func (a *Attacker) keepAsking(n int) (kept int, err error) {
	server, err := resolverAddress()
	if err != nil {
		return 0, err
	}
	var open []net.Conn
	for range n {
		if c, err := net.DialTimeout("tcp", server, time.Second); err == nil {
			open = append(open, c)
		}
	}
	time.Sleep(holdFor)
	for _, c := range open {
		c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			kept++
		}
		c.Close()
	}
	return kept, nil
}

// askedAbout counts the questions that reached the host's resolver.
func (w *World) askedAbout(token string) (n int) {
	for _, q := range w.Queries() {
		if strings.Contains(q, token) {
			n++
		}
	}
	return n
}
