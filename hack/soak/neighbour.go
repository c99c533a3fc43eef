//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/weir-dev/weir/internal/boxed"
)

// connects are the connect times of one measurement, in microseconds.
type connects struct {
	Took   []float64
	Failed int
}

func (c *connects) add(more connects) {
	c.Took = append(c.Took, more.Took...)
	c.Failed += more.Failed
}

// at returns a quantile.
func (c *connects) at(q float64) float64 {
	if len(c.Took) == 0 {
		return 0
	}
	slices.Sort(c.Took)
	return c.Took[min(int(q*float64(len(c.Took))), len(c.Took)-1)]
}

// victimMain obeys orders "DURATION": it opens one flow after the other, with a pause between them as an ordinary program
// has, and answers with how long that took.
func victimMain([]string) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		d, err := time.ParseDuration(in.Text())
		if err != nil {
			return err
		}
		b, err := json.Marshal(measureConnects(d))
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return nil
}

func measureConnects(d time.Duration) (out connects) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		start := time.Now()
		c, err := quick("tcp", server.String()+":7")
		if err != nil {
			out.Failed++
			continue
		}
		out.Took = append(out.Took, float64(time.Since(start).Microseconds()))
		c.Close()
	}
	return out
}

// pair is an attacker and its victim.
type pair struct {
	attack, victim *boxed.Box
	dataPath       int // the attacker's
}

// neighbour measures one sandbox's connect times while another does nothing, and while it attacks, in short turns.
func (s *soak) neighbour() (err error) {
	var p pair
	if p.attack, err = s.start("attacker", "attack"); err != nil {
		return err
	}
	defer p.attack.Stop()
	if p.victim, err = s.start("victim", "victim"); err != nil {
		return err
	}
	defer p.victim.Stop()
	if p.dataPath, err = boxed.DataPathOf(p.attack.PID()); err != nil {
		return err
	}
	fmt.Printf("connect times in the other sandbox, microseconds; %d turns of %v each, quiet and under attack by turns\n", s.rounds, s.measure)
	fmt.Printf("%-14s %9s %9s | %9s %9s | %6s %6s | %10s %5s\n", "attack", "quiet p50", "p99", "p50", "p99", "p50 x", "p99 x", "attempts/s", "cpu")
	for _, a := range attacks {
		if a.again == nil || s.only != "" && s.only != a.name {
			continue
		}
		if err := s.row(p, a.name); err != nil {
			return err
		}
	}
	return nil
}

// row measures one attack and prints its line.
func (s *soak) row(p pair, name string) error {
	var quiet, attacked connects
	var attempts int
	var cpu time.Duration
	for range s.rounds {
		q, _, _, err := s.turn(p, "none")
		if err != nil {
			return err
		}
		c, made, used, err := s.turn(p, name)
		if err != nil {
			return err
		}
		quiet.add(q)
		attacked.add(c)
		attempts += made
		cpu += used
	}
	seconds := s.measure.Seconds() * float64(s.rounds)
	fmt.Printf("%-14s %9.0f %9.0f | %9.0f %9.0f | %6.2f %6.2f | %10.0f %4.0f%%", name, quiet.at(0.5), quiet.at(0.99), attacked.at(0.5), attacked.at(0.99),
		attacked.at(0.5)/quiet.at(0.5), attacked.at(0.99)/quiet.at(0.99), float64(attempts)/seconds, 100*cpu.Seconds()/seconds)
	if attacked.Failed > 0 {
		fmt.Printf("  %d connects failed", attacked.Failed)
	}
	fmt.Println()
	return nil
}

// settle is how long an attack runs before the measurement begins, and rests after it.
const settle = 100 * time.Millisecond

// turn measures once, under one attack, and returns how often that was made and what it cost the attacker's data path.
func (s *soak) turn(p pair, name string) (c connects, made int, cpu time.Duration, err error) {
	if _, err = p.attack.Ask(name); err != nil {
		return
	}
	time.Sleep(settle)
	before, _ := look(p.dataPath, time.Now())
	answer, err := p.victim.Ask(s.measure.String())
	after, _ := look(p.dataPath, time.Now())
	if err == nil {
		err = json.Unmarshal([]byte(answer), &c)
	}
	if err != nil {
		return
	}
	answer, err = p.attack.Ask("none")
	fmt.Sscan(answer, &made)
	time.Sleep(settle)
	return c, made, after.cpu - before.cpu, err
}
