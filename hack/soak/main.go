//go:build linux

// Command soak runs sandboxes under load for a long time and looks whether anything grows, and how much one of them can
// disturb another.
//
//	go run ./hack/soak -weir bin/weir -for 10m             churn; exit 1 if memory is not flat
//	go run ./hack/soak -weir bin/weir -flows 50000         so many flows; exit 1 if not everything comes back
//	go run ./hack/soak -weir bin/weir -neighbour           connect times of one sandbox while another attacks
//
// It makes two network namespaces of its own (package playground) and never touches another network. Programs inside the
// sandboxes are this binary again.
//
// churn: one sandbox lives for the whole time, and a second one is started and ended again and again. In the first, flows of
// every kind begin and end at a steady pace. Its data path is looked at each second: resident memory, threads, descriptors.
// Memory is flat when a line through the last 80 % rises by less than [maxSlope] and the last quarter lies not more than
// [maxGrowth] above the second.
//
// churn.go has what runs inside, sample.go what is looked at, flat.go the verdict, neighbour.go and attack.go the other question.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/weir-dev/weir/internal/playground"
)

// options are the flags.
type options struct {
	weir, door  string
	duration    time.Duration
	pace, flows int
	neighbour   bool
	rounds      int
	measure     time.Duration
	only        string
}

// The other parts of this binary, by first argument. They run inside a sandbox.
var parts = map[string]func(args []string) error{"churn": churnMain, "attack": attackMain, "victim": victimMain}

func main() {
	if len(os.Args) > 1 {
		if part := parts[os.Args[1]]; part != nil {
			exit(part(os.Args[2:]))
		}
	}
	o := parseFlags()
	if !playground.Inside() {
		status, err := playground.Enter()
		if err != nil {
			exit(fmt.Errorf("%w (soak needs unprivileged user namespaces; weir doctor says more)", err))
		}
		os.Exit(status)
	}
	exit(run(o))
}

func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "soak: %v\n", err)
	os.Exit(1)
}

func parseFlags() options {
	var o options
	flag.StringVar(&o.weir, "weir", "bin/weir", "the weir to look at")
	flag.StringVar(&o.door, "door", "netstack", "the door to look at")
	flag.DurationVar(&o.duration, "for", 10*time.Minute, "how long to churn")
	flag.IntVar(&o.pace, "pace", 300, "flows a second")
	flag.IntVar(&o.flows, "flows", 0, "make so many flows as fast as they go, and look whether everything comes back")
	flag.BoolVar(&o.neighbour, "neighbour", false, "measure how one sandbox disturbs another")
	flag.IntVar(&o.rounds, "rounds", 20, "turns of -neighbour")
	flag.DurationVar(&o.measure, "measure", 300*time.Millisecond, "length of one measurement of -neighbour")
	flag.StringVar(&o.only, "only", "", "measure only this attack")
	flag.Parse()
	o.weir, _ = filepath.Abs(o.weir)
	if flag.NArg() > 0 || o.duration < time.Second || o.pace < 1 || o.rounds < 1 {
		exit(errors.New("bad arguments, see -help"))
	}
	return o
}

func run(o options) error {
	world, err := playground.Open()
	if err != nil {
		return err
	}
	defer world.Close()
	if err := populate(world); err != nil {
		return err
	}
	s, err := newSoak(o, world)
	if err != nil {
		return err
	}
	switch {
	case o.neighbour:
		return s.neighbour()
	case o.flows > 0:
		return s.comesBack()
	}
	return s.churn()
}
