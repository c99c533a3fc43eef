//go:build linux

package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/weir-dev/weir/internal/boxed"
)

// When memory counts as flat. A collector that runs when the heap has doubled makes a saw of the curve, and so the line is
// laid through the lowest samples of each window. In ten minutes the slope of what does not grow still comes out at up to
// 300 kB a minute either way; one lost goroutine in a thousand flows would be as much, one in a hundred ten times that.
const (
	maxSlope  = 500.0 // kB a minute, of a line through the last 80 %
	maxGrowth = 0.10  // of the median of the last quarter above that of the second
	window    = 15    // samples
)

// lowest returns the lowest sample of each window.
func lowest(samples []sample) (out []sample) {
	for w := range slices.Chunk(samples, window) {
		out = append(out, slices.MinFunc(w, func(a, b sample) int { return cmp.Compare(a.rss, b.rss) }))
	}
	return out
}

// flat is the verdict on the samples of one curve.
type flat struct {
	slope          float64 // kB a minute
	second, fourth int64   // medians of the quarters, kB
}

func judge(samples []sample) flat {
	n := len(samples)
	return flat{slope: slopeOf(lowest(samples[n/5:])), second: medianRSS(samples[n/4 : n/2]), fourth: medianRSS(samples[3*n/4:])}
}

func (f flat) growth() float64 { return float64(f.fourth-f.second) / float64(max(f.second, 1)) }

func (f flat) ok() bool { return f.slope < maxSlope && f.growth() < maxGrowth }

func (f flat) String() string {
	return fmt.Sprintf("slope %+.0f kB/min (less than %.0f), median of quarters 2 and 4: %d and %d kB, %+.1f %% (less than %.0f %%)",
		f.slope, maxSlope, f.second, f.fourth, 100*f.growth(), 100*maxGrowth)
}

// slopeOf is the least-squares slope of resident memory in kB a minute.
func slopeOf(samples []sample) float64 {
	var sumX, sumY, sumXX, sumXY float64
	n := float64(len(samples))
	for _, s := range samples {
		x, y := s.at.Minutes(), float64(s.rss)
		sumX, sumY, sumXX, sumXY = sumX+x, sumY+y, sumXX+x*x, sumXY+x*y
	}
	if d := n*sumXX - sumX*sumX; d > 0 {
		return (n*sumXY - sumX*sumY) / d
	}
	return 0
}

func medianRSS(samples []sample) int64 {
	if len(samples) == 0 {
		return 0
	}
	all := make([]int64, len(samples))
	for i, s := range samples {
		all[i] = s.rss
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// churn is the command without another flag: see the package comment.
func (s *soak) churn() error {
	long, err := s.start("long", "churn", fmt.Sprint(s.pace), "64")
	if err != nil {
		return err
	}
	defer long.Stop()
	pid, err := boxed.DataPathOf(long.PID())
	if err != nil {
		return err
	}
	said := make(chan string, 1)
	go func() {
		answer, _ := long.Ask(fmt.Sprint(int(s.duration.Seconds()) * s.pace))
		said <- answer
	}()
	stop := make(chan struct{})
	short := make(chan string)
	go func() { short <- s.comeAndGo(stop) }()
	samples, err := s.watch(pid, said)
	close(stop)
	fmt.Println("short-lived sandboxes:", <-short)
	if err != nil {
		return err
	}
	verdict := judge(samples)
	fmt.Println(verdict)
	if !verdict.ok() {
		return fmt.Errorf("memory is not flat")
	}
	return nil
}

// watch samples each second until the flows are made, and prints thirty lines of it.
func (s *soak) watch(pid int, said <-chan string) ([]sample, error) {
	var samples []sample
	start := time.Now()
	every := max(1, int(s.duration.Seconds())/30)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	fmt.Printf("%8s %9s %8s %12s %8s\n", "second", "rss kB", "threads", "descriptors", "cpu s")
	for {
		select {
		case answer := <-said:
			fmt.Print("flows: ", answer)
			if answer == "" {
				return nil, fmt.Errorf("the program ended early")
			}
			return samples, nil
		case <-tick.C:
		}
		now, err := look(pid, start)
		if err != nil {
			return nil, err
		}
		if samples = append(samples, now); len(samples)%every == 0 {
			fmt.Printf("%8.0f %9d %8d %12d %8.1f\n", now.at.Seconds(), now.rss, now.threads, now.descriptors, now.cpu.Seconds())
		}
	}
}

// comeAndGo starts and ends sandboxes until stop is closed, with some flows in each.
func (s *soak) comeAndGo(stop <-chan struct{}) string {
	n, failed := 0, 0
	for {
		select {
		case <-stop:
			return fmt.Sprintf("%d, %d of them failed", n, failed)
		case <-time.After(2 * time.Second):
		}
		n++
		b, err := s.start("short", "churn", "0", "8")
		if err == nil {
			_, err = b.Ask("20")
			if ended := b.Stop(); err == nil {
				err = ended
			}
		}
		if err != nil {
			failed++
		}
	}
}

// How much more a data path may hold after its flows than before: descriptors come back but for spare ones, the runtime keeps
// threads.
const (
	moreRSS     = 24 << 10 // kB: what the runtime keeps of a peak, and tables that were filled
	moreThreads = 16

	// spareDescriptors wait for their next use in the tproxy door: pipes of two ends, and sockets of either family that came
	// with others.
	spareDescriptors = 2*8 + 2*31
)

// comesBack makes flows as fast as they go and compares the data path before and after.
func (s *soak) comesBack() error {
	b, err := s.start("many", "churn", "0", "64")
	if err != nil {
		return err
	}
	defer b.Stop()
	pid, err := boxed.DataPathOf(b.PID())
	if err != nil {
		return err
	}
	start := time.Now()
	if _, err := b.Ask("1"); err != nil { // the program runs
		return err
	}
	before, err := look(pid, start)
	if err != nil {
		return err
	}
	answer, err := b.Ask(fmt.Sprint(s.flows))
	if err != nil {
		return err
	}
	after, err := s.rest(pid, start, before.descriptors+spareDescriptors)
	if err != nil {
		return err
	}
	fmt.Printf("flows: %sbefore %+v\nafter  %+v\n", answer, before, after)
	if after.descriptors > before.descriptors+spareDescriptors || after.threads > before.threads+moreThreads || after.rss > before.rss+moreRSS {
		return fmt.Errorf("not everything came back")
	}
	return nil
}

// rest waits until the data path has no more descriptors than that and has had time to give memory back. It waits as long as
// the longest timer lasts at most: flows of UDP end when they were quiet for two minutes.
func (s *soak) rest(pid int, start time.Time, descriptors int64) (sample, error) {
	for end := time.Now().Add(150 * time.Second); ; time.Sleep(2 * time.Second) {
		now, err := look(pid, start)
		if err != nil || time.Now().After(end) {
			return now, err
		}
		if now.descriptors <= descriptors {
			time.Sleep(5 * time.Second)
			return look(pid, start)
		}
	}
}
