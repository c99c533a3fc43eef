//go:build linux

// Command scale looks whether cost grows in proportion: to many sandboxes, and to many flows.
//
//	go run ./hack/scale -weir bin/weir -sandboxes 1000 -flows 20000 [-door netstack,tproxy,both] [-markdown docs/scale.md]
//
// It makes two network namespaces of its own (package playground) and never touches another network. Programs inside the
// sandboxes are this binary again, and so are the servers, as one process may not have as many descriptors as there are
// flows.
//
// Sandboxes are started one after the other, up to 10, 20, 50, 100 ... of them. At each of these sizes all of them are left
// alone for a while (what an idle one costs), and then all of them make flows as fast as they can (what the one log that they
// share takes). Flows are opened in a fleet of few sandboxes, up to 1,000, 2,000, 5,000 ... of them, and stay open; at
// each of these sizes memory, idle cost and the time of one more flow are read.
//
// Memory is the processes' proportional share (PSS), so that the pages of the one binary are counted once; what the kernel
// holds for sockets is not in it, and neither are the programs inside and the servers. "machine" is by how much less memory
// the machine has available, with everything, the kernel and the rest of the machine's work included. A run that would leave the machine less
// than -reserve of memory, or take more process ids than there are, ends early and says so.
//
// The log alone is filled by so many writers as there are sandboxes, without any.
//
// part.go has what runs inside and the servers, fleet.go the sandboxes, sandboxes.go, flows.go and log.go the questions,
// table.go what is printed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/internal/boxed"
	"github.com/weir-dev/weir/internal/playground"
)

// options are the flags.
type options struct {
	weir, markdown   string
	doors            []string
	flows, sandboxes int
	only             []string
	idle, burst      time.Duration
	reserve          int64 // octets
}

// The other parts of this binary, by first argument.
var parts = map[string]func() error{"program": programMain, "serve": serveMain}

func main() {
	if len(os.Args) > 1 {
		if part := parts[os.Args[1]]; part != nil {
			exit(part())
		}
	}
	o := parseFlags()
	if !playground.Inside() {
		status, err := playground.Enter()
		if err != nil {
			exit(fmt.Errorf("%w (scale needs unprivileged user namespaces; weir doctor says more)", err))
		}
		os.Exit(status)
	}
	exit(run(o))
}

func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "scale: %v\n", err)
	os.Exit(1)
}

func parseFlags() options {
	var o options
	doors := flag.String("door", "netstack,tproxy", "the doors to measure, with commas")
	reserve := flag.Int64("reserve", 4096, "MiB of memory that are left to the rest of the machine")
	flag.StringVar(&o.weir, "weir", "bin/weir", "the weir to measure")
	flag.IntVar(&o.flows, "flows", 20000, "how many flows there are in the end")
	flag.IntVar(&o.sandboxes, "sandboxes", 1000, "how many sandboxes there are in the end")
	only := flag.String("only", "log,sandboxes,flows", "what to measure, with commas")
	flag.DurationVar(&o.idle, "idle", 10*time.Second, "how long everything is left alone at each size")
	flag.DurationVar(&o.burst, "burst", 5*time.Second, "how long flows are made for the log at each size")
	flag.StringVar(&o.markdown, "markdown", "", "write the tables to this file, too")
	flag.Parse()
	o.weir, _ = filepath.Abs(o.weir)
	if o.markdown != "" {
		o.markdown, _ = filepath.Abs(o.markdown)
	}
	o.doors, o.only, o.reserve = strings.Split(*doors, ","), strings.Split(*only, ","), *reserve<<20
	if flag.NArg() > 0 || o.flows < 1 || o.sandboxes < 1 || o.idle < time.Second || o.burst < time.Second {
		exit(errors.New("bad arguments, see -help"))
	}
	return o
}

func (o options) wants(what string) bool { return slices.Contains(o.only, what) }

func run(o options) error {
	world, err := playground.Open()
	if err != nil {
		return err
	}
	defer world.Close()
	self, err := boxed.Copy(world.Dir, "scale")
	if err != nil {
		return err
	}
	servers, err := startServers(world, self)
	defer servers.stop()
	if err != nil {
		return err
	}
	rep := &report{options: o}
	rep.begin()
	if o.wants("log") {
		rep.add(measureLog(o, world.Dir))
	}
	for _, door := range o.doors {
		f := func() *fleet { return newFleet(o, door, world.Dir, self) }
		if o.wants("sandboxes") {
			rep.add(measureSandboxes(f(), o))
		}
		if o.wants("flows") {
			rep.add(measureFlows(f(), o))
		}
	}
	return errors.Join(rep.err, rep.write())
}
