//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// connects are the connect times of one measurement, in microseconds.
type connects struct {
	N, Failed     int
	P50, P90, P99 float64
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

func measureConnects(d time.Duration) connects {
	var took []float64
	var out connects
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		start := time.Now()
		c, err := quick("tcp", server.String()+":7")
		if err != nil {
			out.Failed++
			continue
		}
		took = append(took, float64(time.Since(start).Microseconds()))
		c.Close()
	}
	slices.Sort(took)
	at := func(q float64) float64 {
		if len(took) == 0 {
			return 0
		}
		return took[min(int(q*float64(len(took))), len(took)-1)]
	}
	out.N, out.P50, out.P90, out.P99 = len(took), at(0.5), at(0.9), at(0.99)
	return out
}

// neighbour measures one sandbox's connect times while another does nothing, and while it attacks, in turns.
func (s *soak) neighbour() error {
	attack, err := s.start("attacker", "attack")
	if err != nil {
		return err
	}
	defer attack.stop()
	victim, err := s.start("victim", "victim")
	if err != nil {
		return err
	}
	defer victim.stop()
	pid, err := dataPathOf(attack.cmd.Process.Pid)
	if err != nil {
		return err
	}
	measure := func(name string) (c connects, made string, cpu time.Duration, err error) {
		if _, err = attack.ask(name); err != nil {
			return
		}
		time.Sleep(200 * time.Millisecond)
		before, _ := look(pid, time.Now())
		answer, err := victim.ask(s.measure.String())
		after, _ := look(pid, time.Now())
		if err == nil {
			err = json.Unmarshal([]byte(answer), &c)
		}
		if err == nil {
			made, err = attack.ask("none")
		}
		time.Sleep(300 * time.Millisecond)
		return c, made, after.cpu - before.cpu, err
	}
	fmt.Printf("connect times in the other sandbox, microseconds; medians of %d turns of %v\n", s.rounds, s.measure)
	fmt.Printf("%-14s %9s %9s | %9s %9s | %8s %8s | %10s %6s\n", "attack", "quiet p50", "p99", "p50", "p99", "p50 x", "p99 x", "attempts/s", "cpu")
	for _, a := range attacks {
		if a.again == nil || s.only != "" && s.only != a.name {
			continue
		}
		if err := s.row(a.name, measure); err != nil {
			return err
		}
	}
	return nil
}

type measurement func(name string) (c connects, made string, cpu time.Duration, err error)

// row measures one attack and prints its line.
func (s *soak) row(name string, measure measurement) error {
	var quiet50, quiet99, p50, p99, rate, cpu []float64
	failed := 0
	for range s.rounds {
		q, _, _, err := measure("none")
		if err != nil {
			return err
		}
		c, made, used, err := measure(name)
		if err != nil {
			return err
		}
		quiet50, quiet99 = append(quiet50, q.P50), append(quiet99, q.P99)
		p50, p99 = append(p50, c.P50), append(p99, c.P99)
		failed += c.Failed
		var n float64
		fmt.Sscan(made, &n)
		rate = append(rate, n/s.measure.Seconds())
		cpu = append(cpu, used.Seconds()/s.measure.Seconds())
	}
	fmt.Printf("%-14s %9.0f %9.0f | %9.0f %9.0f | %8.2f %8.2f | %10.0f %5.0f%%", name, median(quiet50), median(quiet99), median(p50), median(p99),
		median(p50)/median(quiet50), median(p99)/median(quiet99), median(rate), 100*median(cpu))
	if failed > 0 {
		fmt.Printf("  %d connects failed", failed)
	}
	fmt.Println()
	return nil
}

func median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}
