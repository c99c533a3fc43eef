//go:build linux && !client

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/sandbox"
	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
)

// statusBeforeStart is the exit status of everything that fails before CMD runs, as in env(1) and podman-run(1).
const statusBeforeStart = 125

// statusFailOn is the exit status when what --fail-on names has happened and CMD itself has nothing worse to tell.
const statusFailOn = 86

// runFlags are the flags of "weir run".
type runFlags struct {
	name, policyFile, mode, route, door, link, events, learn, fs, profile, mcp, failOn string
	tunnel, space                                                                      string
	allow, deny, share, env                                                            []string
	hostPorts, publish                                                                 []int
	mtu                                                                                int
	mtuGiven                                                                           bool
	summary, quiet, dryRun                                                             bool
}

func newRunCommand(g *globals) *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run [flags] -- CMD [ARG...]",
		Short: "Run a program in a new sandbox",
		Long: `Run CMD in a sandbox of its own, without privileges. Its only network is weir: every flow is named by DNS, SNI or Host,
judged by the rules, carried and recorded. stdin, stdout and stderr are CMD's own.

CMD sees the system's directories, the programs on PATH and a home of its own, kept per app. Of your files it sees what
--share names; it starts in the current directory if that is shared, else in its home.

Without a rule everything but guarded and private addresses passes and is recorded (audit); with a rule everything else
is denied (enforce). A rule is TARGET[:PORTS][/PROTO], docs/policy.md has the grammar.

Exit status: CMD's own; 128+N if signal N ended it; 125 if weir failed before CMD started; 126 if CMD cannot be executed;
127 if it was not found; 86 with --fail-on when such an event happened and CMD ended with 0 or by a signal sent to weir.`,
		Example: `  weir run -- npx -y @modelcontextprotocol/server-everything
  weir run --allow api.github.com --env GITHUB_TOKEN -- npx -y @modelcontextprotocol/server-github
  weir run --allow '*.example.com' --allow '192.0.2.0/24:5432' --share . -- ./server
  weir run --learn learned.yaml -- npx -y some-server     # then: review it, and
  weir run -f learned.yaml -- npx -y some-server          # enforce it
  weir run --profile engine --allow registry.example -- podman run registry.example/server
  weir run --share "$PWD:ro" --host-port 5432 -- psql -h localhost
  weir run --door tproxy --allow '*.example.com' -- ./server    # the kernel's TCP and UDP: fastest, no ping
  weir run --door both --allow @public:* -- ./server            # the same, and ping by a link beside it`,
		Args: cobra.ArbitraryArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := g.check(); err != nil {
				return exitError{statusBeforeStart, err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f.mtuGiven = cmd.Flags().Changed("mtu")
			p, err := newPlan(f, args)
			if err != nil {
				return exitError{statusBeforeStart, err}
			}
			p.json, p.logLevel, p.noColor = g.json, g.logLevel, g.noColor
			if f.dryRun {
				return p.show(cmd.OutOrStdout())
			}
			return p.execute()
		},
	}
	f.register(cmd)
	for _, c := range f.choices() {
		offer(cmd, c.flag, c.known...)
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return exitError{statusBeforeStart, flagError(cmd, err)} })
	return cmd
}

func (f *runFlags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.SetInterspersed(false)
	s.StringVar(&f.name, "name", "", "name of the `APP` in events and for its home (default: from CMD)")
	s.StringVarP(&f.policyFile, "policy", "f", "", "policy `FILE`; its app --name gives rules and, without CMD, the command (default: weir.yaml of the configuration directory, for apps that it knows)")
	s.StringArrayVar(&f.allow, "allow", nil, "allow `RULE` (repeatable)")
	s.StringArrayVar(&f.deny, "deny", nil, "deny `RULE` (repeatable)")
	s.StringVar(&f.mode, "mode", "", "`MODE` audit: let pass and record; enforce: deny what no rule allows (default: by the rules)")
	s.StringVar(&f.route, "route", "", "default `ROUTE`: direct or tunnel")
	s.StringVar(&f.door, "door", "netstack", "`DOOR`: how packets are intercepted: netstack (a TCP/IP stack of weir's own), tproxy (the kernel's, by nftables: faster, no ping) or both (TCP and UDP by tproxy, the rest by netstack)")
	s.StringVar(&f.link, "link", "auto", "the sandbox's `LINK`, which --door tproxy does without: tap, veth or auto")
	s.IntVar(&f.mtu, "mtu", 1500, "`MTU` of the link, 1280 to 65520")
	s.StringVar(&f.events, "events", "", "event log: `PATH` or fd:N (default: the state directory's events.jsonl)")
	s.BoolVar(&f.summary, "summary", false, "print the summary at the end even when stderr is no terminal")
	s.StringVar(&f.learn, "learn", "", "write the policy that allows just what this run did to `FILE`")
	s.StringArrayVar(&f.share, "share", nil, "show `HOST[:INSIDE][:ro]` inside (repeatable)")
	s.StringVar(&f.fs, "fs", "private", "file `SYSTEM`: private, or host to see the host's as it is")
	s.StringArrayVar(&f.env, "env", nil, "pass `NAME[=VALUE]` on to CMD (repeatable)")
	s.IntSliceVar(&f.hostPorts, "host-port", nil, "reach the host's loopback `PORT` from inside, as host.weir.internal and localhost (repeatable)")
	s.IntSliceVar(&f.publish, "publish", nil, "offer the sandbox's `PORT` on the host's loopback (repeatable)")
	s.StringVar(&f.profile, "profile", "tool", "`PROFILE` of what may run inside: tool, or engine for container engines and images with many users")
	s.StringVar(&f.mcp, "mcp", "auto", "`WHEN` to read along in MCP on stdio to know the server's phase: auto or off")
	s.StringVar(&f.tunnel, "tunnel", "", "let users' machines in for the time of this run, on `ADDRESS` (default "+defaultTunnelAddr+"), UDP and TCP; without it the route tunnel leads to a running weir serve")
	s.Lookup("tunnel").NoOptDefVal = defaultTunnelAddr
	s.StringVar(&f.space, "space", tunnel.DefaultSpace, "`SPACE` whose clients the route tunnel leads to")
	s.BoolVar(&f.dryRun, "dry-run", false, "say what would run, and run nothing")
	s.StringVar(&f.failOn, "fail-on", "", "exit 86 if `EVENT` happened: denied or first-seen")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing on stderr while CMD runs")
}

// plan is a run that was checked: nothing in it fails for a reason that the command line could have told.
type plan struct {
	runFlags
	app            string
	command        []string
	policy         policyConfig
	digest, ruling string
	tunnelled      bool // a route of the policy leads through the tunnel
	spec           sandbox.Spec
	withheld       []string
	warnings       []string // about the policy file; only --dry-run shows them
	eventsTarget   eventsTarget
	json, noColor  bool
	logLevel       string
}

// policyConfig is what a policy is made of; it travels to the data path, which makes the same one.
type policyConfig struct {
	Mode        string
	Allow, Deny []string
	FileName    string
	File        []byte
	App, Route  string
	HostPorts   []uint16
	OnHost      bool // for a container of the host's, which has none of weir's addresses

	install bool // the app has rules for the time of its installation
}

func newPlan(f *runFlags, args []string) (*plan, error) {
	p := &plan{runFlags: *f, command: args}
	for _, step := range []func() error{p.checkFlags, p.checkCommand, p.checkPolicy, p.checkEvents, p.buildSpec} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// choice is a flag with its value, of which only some are known.
type choice struct {
	flag, value string
	known       []string
	later       map[string]string // values that are none yet, and why
}

func (f *runFlags) choices() []choice {
	return []choice{
		{"mode", f.mode, []string{"", "audit", "enforce"}, map[string]string{"ask": "asking at run time is not built yet"}},
		{"door", f.door, []string{"netstack", "tproxy", "both"}, nil},
		{"link", f.link, []string{"tap", "veth", "auto"}, nil},
		{"fs", f.fs, []string{"private", "host"}, nil},
		{"profile", f.profile, []string{"tool", "engine"}, nil},
		{"mcp", f.mcp, []string{"auto", "off"}, nil},
		{"fail-on", f.failOn, []string{"", "denied", "first-seen"}, nil},
		{"route", f.route, []string{"", "direct", "tunnel"}, nil},
	}
}

func (p *plan) checkFlags() error {
	for _, check := range []func() error{p.checkProfile, p.checkDoor} {
		if err := check(); err != nil {
			return err
		}
	}
	for _, c := range p.choices() {
		if slices.Contains(c.known, c.value) {
			continue
		}
		if why := c.later[c.value]; why != "" {
			return fmt.Errorf("--%s %s: %s", c.flag, c.value, why)
		}
		return fmt.Errorf("--%s %q: want %s", c.flag, c.value, strings.TrimPrefix(strings.Join(c.known, ", "), ", "))
	}
	if err := p.checkTunnel(); err != nil {
		return err
	}
	if p.mtu < 1280 || p.mtu > 65520 {
		return fmt.Errorf("--mtu %d: want 1280 to 65520", p.mtu)
	}
	for flag, given := range map[string][]int{"host-port": p.hostPorts, "publish": p.publish} {
		for _, port := range given {
			if port < 1 || port > 65535 {
				return fmt.Errorf("--%s %d: want 1 to 65535", flag, port)
			}
		}
	}
	return nil
}

// checkTunnel checks what an edge would refuse.
func (p *plan) checkTunnel() error {
	if p.space == "" {
		p.space = tunnel.DefaultSpace
	}
	if err := creds.CheckName(p.space); err != nil {
		return fmt.Errorf("--space: %w", err)
	}
	if p.tunnel == "" {
		return nil
	}
	if _, err := net.ResolveUDPAddr("udp", p.tunnel); err != nil {
		return hint(fmt.Errorf("--tunnel %q: want [HOST]:PORT", p.tunnel), "--tunnel=%s", defaultTunnelAddr)
	}
	return nil
}

// checkCommand settles what runs and under which name.
func (p *plan) checkCommand() error {
	p.app = p.name
	if len(p.command) > 0 && p.app == "" {
		p.app = appName(p.command)
	}
	if err := p.readPolicyFile(); err != nil {
		return err
	}
	if len(p.command) == 0 {
		return hint(errors.New("no command given"), "weir run -- CMD ARG...")
	}
	if !policy.AppName(p.app) {
		return fmt.Errorf("--name %q: want letters, digits, \".\", \"_\" and \"-\", at most 64, and a letter or digit first", p.app)
	}
	return nil
}

// readPolicyFile reads the file, once, and takes from it what it says about the app besides rules. Without -f it is the
// user's own file, if there is one and it speaks of the app or of every app.
func (p *plan) readPolicyFile() error {
	path := p.policyFile
	if path == "" {
		dir, err := xdgDir("XDG_CONFIG_HOME", ".config")
		if err != nil {
			return err
		}
		path = filepath.Join(dir, "weir", "weir.yaml")
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	text, err := policy.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := policy.ParseFile(path, text)
	if err != nil {
		return err
	}
	if p.policyFile == "" && !file.Knows(p.app) {
		return nil
	}
	p.policyFile = path
	app, _ := file.App(p.app)
	if len(p.command) == 0 {
		if p.command = app.Command; len(p.command) == 0 {
			return p.noCommand(file)
		}
	}
	p.env = append(slices.Clone(app.Env), p.env...)
	p.policy = policyConfig{FileName: p.policyFile, File: text, install: len(app.InstallAllow) > 0}
	return nil
}

// noCommand says why the file gave no command, and what does.
func (p *plan) noCommand(file *policy.File) error {
	if p.app == "" {
		for _, app := range file.Apps {
			if len(app.Command) > 0 {
				return hint(errors.New("neither a command nor --name given"), "weir run -f %s --name %s", p.policyFile, app.Name)
			}
		}
		return hint(errors.New("no command given"), "weir run -f %s --name APP -- CMD ARG...", p.policyFile)
	}
	if _, err := policy.New(policy.Config{File: file, App: p.app}); err != nil {
		return err
	}
	return hint(fmt.Errorf("no command given, and %s has none for app %q", p.policyFile, p.app), "weir run -f %s --name %s -- CMD ARG...", p.policyFile, p.app)
}

// checkPolicy makes the policy once, so that a broken one stops everything before anything starts.
func (p *plan) checkPolicy() error {
	c := &p.policy
	c.Mode, c.Allow, c.Deny, c.App, c.Route, c.HostPorts = p.mode, p.allow, p.deny, p.app, p.route, ports(p.hostPorts)
	if p.learn != "" && p.policy.Mode == "" {
		p.policy.Mode = "audit"
	}
	made, err := p.policy.make(nil)
	if err != nil {
		return err
	}
	p.digest, p.ruling = made.Digest(), made.Mode()
	p.tunnelled = slices.ContainsFunc(made.Routes(), func(route string) bool { _, ok := isTunnel(route); return ok })
	for _, w := range made.Warnings() {
		p.warnings = append(p.warnings, w.Error())
	}
	return nil
}

func ports(list []int) []uint16 {
	var out []uint16
	for _, p := range list {
		if !slices.Contains(out, uint16(p)) {
			out = append(out, uint16(p))
		}
	}
	return out
}

// eventsTarget is where the event log goes: a path, or a descriptor that weir was started with.
type eventsTarget struct {
	path string
	fd   int // -1: path
}

func (p *plan) checkEvents() error {
	p.eventsTarget = eventsTarget{fd: -1, path: p.events}
	switch {
	case p.events == "-":
		return hint(errors.New("--events -: stdout is CMD's"), "weir run --events fd:3 -- CMD 3>events.jsonl")
	case strings.HasPrefix(p.events, "fd:"):
		n, err := strconv.Atoi(p.events[3:])
		if err != nil || n < 3 {
			return fmt.Errorf("--events %s: want fd:N with N of 3 or more", p.events)
		}
		p.eventsTarget = eventsTarget{fd: n}
		if err := unix.Fstat(n, new(unix.Stat_t)); err != nil {
			return hint(fmt.Errorf("--events %s: the descriptor is not open", p.events), "weir run --events fd:%d -- CMD %d>events.jsonl", n, n)
		}
	case p.events == "":
		dir, err := stateDir()
		if err != nil {
			return err
		}
		p.eventsTarget.path = filepath.Join(dir, "events.jsonl")
	default:
		path, err := filepath.Abs(p.events) // the data path lives in another directory
		if err != nil {
			return fmt.Errorf("--events %s: %w", p.events, err)
		}
		p.eventsTarget.path = path
	}
	return nil
}

// show is --dry-run.
func (p *plan) show(w interface{ Write([]byte) (int, error) }) error {
	out := struct {
		App      string   `json:"app"`
		Command  []string `json:"command"`
		Mode     string   `json:"mode"`
		Policy   string   `json:"policy"`
		Events   string   `json:"events"`
		Home     string   `json:"home"`
		Visible  []string `json:"visible"`
		Shares   []string `json:"shares"`
		Env      []string `json:"env"`
		Withheld []string `json:"withheld"`
		Link     string   `json:"link"`
		Door     string   `json:"door"`
		Warnings []string `json:"warnings"`
	}{p.app, p.command, p.ruling, p.digest, p.events, p.spec.Home, listed(p.spec.ReadOnly), listed(p.share), names(p.spec.Env), listed(p.withheld), p.link, p.door, listed(p.warnings)}
	if p.eventsTarget.fd < 0 {
		out.Events = p.eventsTarget.path
	}
	if p.door == "tproxy" {
		out.Link = p.door // as sandbox-start says: there is no other
	}
	if p.json {
		enc := json.NewEncoder(w)
		return enc.Encode(out)
	}
	b, _ := json.MarshalIndent(out, "", "  ")
	_, err := fmt.Fprintf(w, "%s\n", b)
	return err
}

// listed is a list that JSON shows as [] when it is empty.
func listed(list []string) []string { return append([]string{}, list...) }

// names returns the names of an environment: values may be secrets.
func names(env []string) []string {
	out := make([]string, len(env))
	for i, kv := range env {
		out[i], _, _ = strings.Cut(kv, "=")
	}
	return out
}
