//go:build linux && !client

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/bench"
	"github.com/weir-dev/weir/internal/playground"
)

// minRounds is the fewest samples that a median is taken of.
const minRounds = 3

// benchFlags are what people choose.
type benchFlags struct {
	metrics, doors []string
	peers, html    string
	quick, tunnel  bool
	rounds         int
	length         time.Duration
	config         bench.Config // made of them
}

func newBenchCommand(g *globals) *cobra.Command {
	f := &benchFlags{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure the doors on this machine, beside the plain host and other tools",
		Long: `Measure throughput, request-response, connections, datagrams, start and memory through each door of weir, beside the same
program without a sandbox. All of it happens between two network namespaces made for it: no network is used, no privilege
needed. Subjects take turns with every metric; the result is the median of the rounds.

--peers adds those installed of pasta, slirp4netns and gvisor-tap-vsock (through rootlesskit), each started as its manual
says; name some with --peers=pasta,slirp4netns, and another MTU with --peers=pasta-1500.

Without /dev/net/tun the netstack door is measured over a veth link, and what does not work at all is missing from the table:
the lines above it say so, and why.

Numbers are worth what the machine is quiet: a ~ marks those whose samples lie more than a factor of 2 apart.`,
		Example: `  weir bench --quick
  weir bench --peers --html bench.html
  weir bench --metric throughput,rr --rounds 5 --for 2s
  weir bench --tunnel --metric throughput,connect_us,udp_arrived
  weir bench --json | jq '.rows[] | {subject, metric, direction, streams, value, unit}'`,
		Args: f.noArgument,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.complete(cmd); err != nil {
				return err
			}
			if !playground.Inside() {
				return enterPlayground()
			}
			return f.run(cmd.OutOrStdout(), g)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.quick, "quick", false, "a first look, in about half a minute: short loads, few starts")
	flags.IntVar(&f.rounds, "rounds", minRounds, "samples of each metric; at least 3")
	flags.DurationVar(&f.length, "for", time.Second, "length of a transfer; other loads take half of it")
	flags.StringSliceVar(&f.metrics, "metric", nil, "measure only these: "+strings.Join(bench.Metrics(), ", "))
	flags.StringSliceVar(&f.doors, "door", []string{"netstack", "tproxy"}, "doors to measure: netstack, tproxy, both")
	flags.BoolVar(&f.tunnel, "tunnel", false, "measure each door with a tunnel behind it, too: over QUIC and over WebSocket")
	flags.StringVar(&f.peers, "peers", "", "measure other tools too")
	flags.Lookup("peers").NoOptDefVal = "all"
	flags.StringVar(&f.html, "html", "", "also write a page with charts to `FILE`")
	offer(cmd, "door", "netstack", "tproxy", "both")
	offer(cmd, "metric", bench.Metrics()...)
	offer(cmd, "peers", bench.PeerNames()...)
	cmd.AddCommand(newBenchPartCommand())
	return cmd
}

// noArgument refuses arguments. That of --peers has to follow it in the same word, since it may have none.
func (f *benchFlags) noArgument(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && f.peers == "all" {
		return usageError{hint(fmt.Errorf("bench %s: want no argument", args[0]), "weir bench --peers=%s", args[0])}
	}
	return wants()(cmd, args)
}

// newBenchPartCommand is what the measuring process starts: the client that runs in every subject, the server.
func newBenchPartCommand() *cobra.Command {
	return &cobra.Command{Use: "part", Hidden: true, DisableFlagParsing: true, RunE: func(_ *cobra.Command, args []string) error { return bench.Part(args) }}
}

// complete checks the flags and makes the configuration of them.
func (f *benchFlags) complete(cmd *cobra.Command) error {
	wrong := func(format string, args ...any) error {
		return usageError{hint(fmt.Errorf(format, args...), "%s --help", cmd.CommandPath())}
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	c := bench.Config{
		Builds: []bench.Build{{Path: self}}, Doors: f.doors, Part: []string{"bench", "part"}, Rounds: f.rounds, For: f.length,
		Starts: 10, Idle: 1000, Rest: 2 * time.Second, Version: versionText(), Tunnel: f.tunnel,
	}
	if f.quick {
		c.Starts, c.Idle, c.Rest = 3, 200, 500*time.Millisecond
		if !cmd.Flags().Changed("for") {
			c.For = 200 * time.Millisecond
		}
	}
	switch {
	case f.rounds < minRounds || f.rounds > 1000:
		return wrong("--rounds %d: want %d to 1000, a median is taken of them", f.rounds, minRounds)
	case f.length < 20*time.Millisecond || f.length > time.Minute:
		return wrong("--for %v: want 20ms to 1m", f.length)
	}
	for _, d := range f.doors {
		if d != "netstack" && d != "tproxy" && d != "both" {
			return wrong("--door %q: want netstack, tproxy or both", d)
		}
	}
	for _, m := range f.metrics {
		if !slices.Contains(bench.Metrics(), m) {
			return wrong("--metric %q: want one of %s", m, strings.Join(bench.Metrics(), ", "))
		}
	}
	if f.peers == "all" {
		c.Peers = bench.PeerNames()
	} else if f.peers != "" {
		c.Peers = strings.Split(f.peers, ",")
	}
	for _, p := range c.Peers {
		if err := bench.CheckPeer(p); err != nil {
			return wrong("--peers: %w", err)
		}
	}
	if len(f.metrics) > 0 {
		c.Wanted = func(row string) bool {
			metric, _, _ := strings.Cut(row, " ")
			return slices.Contains(f.metrics, metric)
		}
	}
	f.config = c
	return nil
}

// run measures, in the playground.
func (f *benchFlags) run(out io.Writer, g *globals) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	defer func() {
		if ctx.Err() != nil {
			err = exitError{128 + int(syscall.SIGINT), errors.New("bench: interrupted, nothing is left running")}
		}
	}()
	var page *os.File
	if f.html != "" { // before minutes of measuring, not after
		if page, err = os.Create(f.html); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		defer page.Close()
	}
	world, err := playground.Open()
	if err != nil {
		return err
	}
	defer world.Close()
	ui := newUI(os.Stderr)
	ui.color = ui.color && !g.noColor
	bar := &progress{w: os.Stderr, on: term.IsTerminal(int(os.Stderr.Fd()))}
	defer bar.clear()
	f.config.Progress = bar.show
	f.config.Say = func(text string) {
		bar.clear()
		ui.warnf("bench: %s", text)
	}
	b, err := bench.Open(ctx, f.config, world.Dir)
	if err != nil {
		return err
	}
	defer b.Close()
	result, err := b.Measure(ctx)
	bar.clear()
	if err != nil {
		return err
	}
	if page != nil {
		if err := result.WriteHTML(page); err != nil {
			return fmt.Errorf("bench: write %s: %w", f.html, err)
		}
	}
	if g.json {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		err = enc.Encode(result)
	} else {
		err = result.WriteText(out)
	}
	return errors.Join(err, result.Check(), anyDoor(result))
}

// anyDoor is an error if no door could be measured: then the command has not done what it is for.
func anyDoor(result *bench.Result) error {
	var lacks []string
	for _, s := range result.Subjects {
		switch {
		case s.Name != "netstack" && s.Name != "tproxy" && s.Name != "both":
		case s.Skipped == "":
			return nil
		default:
			lacks = append(lacks, s.Skipped)
		}
	}
	return hint(fmt.Errorf("bench: no door works here: %s", strings.Join(lacks, "; ")), "weir doctor")
}

// progress is one line on a terminal, written over again and again; elsewhere it is nothing.
type progress struct {
	w     io.Writer
	on    bool
	start time.Time
}

// progressWidth is how long the line gets, so that it does not wrap.
const progressWidth = 78

func (p *progress) show(done, total int, what string) {
	if !p.on {
		return
	}
	if p.start.IsZero() {
		p.start = time.Now()
	}
	left := ""
	if spent := time.Since(p.start); done > 0 && total > 0 {
		left = fmt.Sprintf("%3d%%, %s left", 100*done/total, (spent * time.Duration(total-done) / time.Duration(done)).Round(time.Second))
	}
	text := []rune(event.Escape(fmt.Sprintf("%-20s %s", left, what)))
	fmt.Fprintf(p.w, "\r\x1b[K%s", string(text[:min(len(text), progressWidth)]))
}

func (p *progress) clear() {
	if p.on {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
