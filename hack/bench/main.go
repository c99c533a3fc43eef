//go:build linux

// Command bench measures builds of weir against its peers and the plain host, and writes docs/bench.md.
//
//	go run ./hack/bench [-weir bin/weir] [-build LABEL=PATH ...] [-doors netstack,tproxy] [-peers pasta,...] [-markdown FILE]
//
// It is `weir bench` (package bench has all of it) for people who work on weir: it measures several builds side by side, each
// row by itself if need be, and it builds the peer that distributions do not have: rootlesskit with gvisor-tap-vsock, from
// the versions in hack/peers, which are a module of their own because they want another gVisor than weir does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weir-dev/weir/internal/bench"
	"github.com/weir-dev/weir/internal/playground"
)

// options are the flags.
type options struct {
	bench.Config
	html, markdown string
	json           bool
}

// partArgument is the first argument of the other parts of this binary.
const partArgument = "part"

func main() {
	if len(os.Args) > 1 && os.Args[1] == partArgument {
		exit(bench.Part(os.Args[2:]))
	}
	o := parseFlags()
	if !playground.Inside() {
		if err := providePeers(o.Peers); err != nil {
			exit(err)
		}
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
	o := options{Config: bench.Config{Part: []string{partArgument}, Say: say}}
	weir := flag.String("weir", "bin/weir", "the weir to measure")
	doors := flag.String("doors", "netstack,tproxy", "the doors to measure: netstack, tproxy, both")
	peers := flag.String("peers", strings.Join(bench.PeerNames(), ","), "what to compare with, empty for nothing; -MTU is for another MTU")
	flag.Func("build", "another build of weir to measure beside it, `LABEL=PATH`; repeatable", func(s string) error {
		label, path, ok := strings.Cut(s, "=")
		if !ok || label == "" {
			return errors.New("want LABEL=PATH")
		}
		o.Builds = append(o.Builds, bench.Build{Label: label, Path: path})
		return nil
	})
	flag.StringVar(&o.Commit, "commit", "", "commit to name in the result (default: what git says here)")
	flag.StringVar(&o.markdown, "markdown", "", "also write the result to `FILE`")
	flag.StringVar(&o.html, "html", "", "also write the result as a page with charts to `FILE`")
	flag.IntVar(&o.Rounds, "samples", 3, "rounds; the result is their median")
	flag.IntVar(&o.Starts, "starts", 15, "starts of true per round and subject")
	flag.IntVar(&o.Idle, "idle", 2000, "idle connections for the memory of a flow")
	flag.DurationVar(&o.Rest, "rest", 3*time.Second, "how long they are idle before memory is read")
	flag.DurationVar(&o.For, "duration", time.Second, "length of one transfer; other loads take half of it")
	flag.BoolVar(&o.Tunnel, "tunnel", false, "measure each door with a tunnel behind it, too")
	only := flag.String("only", "", "measure only what this `REGEXP` matches, as in \"throughput up 1\", \"start_ms\", \"rss_per_flow\"")
	flag.BoolVar(&o.json, "json", false, "print the result as JSON")
	flag.Parse()
	o.Builds = append([]bench.Build{{Path: *weir}}, o.Builds...)
	o.Doors, o.Peers = list(*doors), list(*peers)
	pattern, err := regexp.Compile(*only)
	if err != nil {
		exit(err)
	}
	o.Wanted = pattern.MatchString
	for _, p := range o.Peers {
		if err := bench.CheckPeer(p); err != nil {
			exit(err)
		}
	}
	if flag.NArg() > 0 || o.Rounds < 1 || o.Idle < 1 || o.Starts < 1 || o.For < 20*time.Millisecond {
		exit(errors.New("bad arguments, see -help"))
	}
	return o
}

func list(text string) []string {
	return slices.DeleteFunc(strings.Split(text, ","), func(s string) bool { return s == "" })
}

func say(text string) { fmt.Fprintln(os.Stderr, "bench:", text) }

// peerBin is where the peers are built, before the PATH: what is put there is measured in the place of what is installed.
const peerBin = "bin/peers"

// providePeers builds rootlesskit if it is to be measured and not there. That may want the network, so it is done outside
// the playground.
func providePeers(names []string) error {
	dir, err := filepath.Abs(peerBin)
	if err != nil {
		return err
	}
	if err := os.Setenv("PATH", dir+":"+os.Getenv("PATH")); err != nil {
		return err
	}
	wanted := slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "gvisor-tap-vsock") })
	if _, err := exec.LookPath("rootlesskit"); !wanted || err == nil {
		return nil
	}
	say("building rootlesskit")
	build := exec.Command("go", "build", "-C", "hack/peers", "-o", dir+"/", "github.com/rootless-containers/rootlesskit/v3/cmd/rootlesskit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build rootlesskit: %w", err)
	}
	return nil
}

// run is the coordinator: it measures and writes.
func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	world, err := playground.Open()
	if err != nil {
		return err
	}
	defer world.Close()
	if o.Commit == "" {
		o.Commit = describeCommit()
	}
	b, err := bench.Open(ctx, o.Config, world.Dir)
	if err != nil {
		return err
	}
	defer b.Close()
	result, err := b.Measure(ctx)
	if err != nil {
		return err
	}
	if o.json {
		err = json.NewEncoder(os.Stdout).Encode(result)
	} else {
		err = result.WriteText(os.Stdout)
	}
	for path, write := range map[string]func(*os.File) error{
		o.markdown: func(f *os.File) error { return result.WriteMarkdown(f) },
		o.html:     func(f *os.File) error { return result.WriteHTML(f) },
	} {
		if path != "" {
			err = errors.Join(err, writeFile(path, write))
		}
	}
	return errors.Join(err, result.Check())
}

func writeFile(path string, write func(*os.File) error) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

func describeCommit() string {
	out, _ := exec.Command("git", "-c", "safe.directory=*", "describe", "--always", "--dirty", "--abbrev=12").Output()
	return strings.TrimSpace(string(out))
}
