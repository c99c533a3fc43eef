//go:build linux

// Command bench measures weir against pasta, slirp4netns and the plain host.
//
//	go run ./hack/bench -weir bin/weir [-samples 3] [-peers pasta,slirp4netns] [-json] [-markdown FILE]
//
// It makes two network namespaces of its own (package playground) and never touches another network. A server runs on the
// loopback of the "host" namespace. Each subject runs the same client, this binary again, and the client reaches the server
// on the address that the subject has for the host's loopback:
//
//	host         127.0.0.1                          no sandbox at all
//	weir         host.weir.internal (10.77.0.1)     enforcing a rule, sniffing, writing events to a file
//	pasta        the gateway's address              MTU 65520, its default
//	pasta-1500   the same, with --mtu 1500          not measured unless -peers names it
//	slirp4netns  10.0.2.2                           MTU 1500, its default
//
// All subjects live at the same time and take turns (host, weir, pasta ..., host, weir, pasta ...) with every metric, so that
// whatever else the machine does hits them alike. The result is the median. Nothing here has a threshold.
//
// main.go has the parts and the flags, subject.go how each subject is started, measure.go what is measured in which order,
// client.go, load.go and server.go the two ends, machine.go and process.go what the kernel says, table.go the output.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/weir-dev/weir/internal/playground"
)

// options are the flags.
type options struct {
	weir, commit, markdown string
	peers                  []string
	samples, starts, idle  int
	duration               time.Duration
	json                   bool
	only                   *regexp.Regexp
}

// The other parts of this binary, by first argument.
var parts = map[string]func(args []string) error{"server": serverMain, "client": clientMain, "hold": holdMain}

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
			exit(fmt.Errorf("%w (bench needs unprivileged user namespaces; weir doctor says more)", err))
		}
		os.Exit(status)
	}
	exit(run(o))
}

func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	os.Exit(1)
}

func parseFlags() options {
	var o options
	peers := flag.String("peers", "pasta,slirp4netns", "what to compare with: pasta, pasta-1500, slirp4netns, weir=PATH for another build of weir")
	flag.StringVar(&o.weir, "weir", "bin/weir", "the weir to measure")
	flag.StringVar(&o.commit, "commit", "", "commit to name in the result (default: what git says here)")
	flag.StringVar(&o.markdown, "markdown", "", "also write the result to `FILE`")
	flag.IntVar(&o.samples, "samples", 3, "rounds; the result is their median")
	flag.IntVar(&o.starts, "starts", 15, "starts of true per round and subject")
	flag.IntVar(&o.idle, "idle", 2000, "idle connections for the memory of a flow")
	flag.DurationVar(&o.duration, "duration", time.Second, "length of one transfer; other loads take half of it")
	only := flag.String("only", "", "measure only what this `REGEXP` matches, as in \"throughput up 1\", \"start_ms\", \"rss_per_flow\"")
	flag.BoolVar(&o.json, "json", false, "print the result as JSON")
	flag.Parse()
	for p := range strings.SplitSeq(*peers, ",") {
		if p != "" {
			o.peers = append(o.peers, p)
		}
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		exit(err)
	}
	if flag.NArg() > 0 || o.samples < 1 || o.idle < 1 || o.starts < 1 || o.duration < 100*time.Millisecond {
		exit(errors.New("bad arguments, see -help"))
	}
	return o
}

// run is the coordinator: it measures and writes.
func run(o options) error {
	world, err := playground.Open()
	if err != nil {
		return err
	}
	defer world.Close()
	b, err := newBench(o, world.Dir)
	if err != nil {
		return err
	}
	defer b.close()
	if err := b.measure(); err != nil {
		return err
	}
	b.result.finish()
	b.result.Machine.Load[1] = loadAverage()
	if o.markdown != "" {
		if err := os.WriteFile(o.markdown, []byte(b.result.markdown()), 0o644); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	}
	if o.json {
		return json.NewEncoder(os.Stdout).Encode(b.result)
	}
	_, err = os.Stdout.WriteString(b.result.text())
	return err
}

// copySelf puts this binary where every subject can execute it, under a name that tells clients from what is measured.
func copySelf(dir string) (string, error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("copy bench: %w", err)
	}
	path := filepath.Join(dir, clientName)
	if err := os.WriteFile(path, self, 0o755); err != nil {
		return "", fmt.Errorf("copy bench: %w", err)
	}
	return path, nil
}
