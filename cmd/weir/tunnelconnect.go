package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/internal/guard"
	"github.com/weir-dev/weir/tunnel/client"
	"github.com/weir-dev/weir/tunnel/creds"
)

// Exit statuses of "weir connect" beside 0 (the user ended it), 1 (anything else) and 2 (the command line).
const (
	statusNoCredentials = 3 // none, expired, or not accepted any more: a token is needed
	statusSuperseded    = 4 // another process has connected as the same client
)

// connectFlags are the flags of "weir connect".
type connectFlags struct {
	tunnel, tunnelCA, tokenFile, name string
	policyFile, events, transport     string
	allow, deny, dns                  []string
	loopback                          []int
	ask, audit, plain, doctor         bool
	maxFlows                          int
	dayMiB                            int
}

func newConnectCommand(g *globals) *cobra.Command {
	f := &connectFlags{}
	cmd := &cobra.Command{
		Use:   "connect --tunnel https://HOST:PORT [flags]",
		Short: "Let hosted programs reach what this machine reaches, as far as you allow it",
		Long: `Connects to an edge and lets programs in hosted sandboxes reach what this machine reaches: by its DNS, its VPN, its
addresses, for as long as this command runs. ^C, SIGTERM and SIGHUP end it and all its flows at once.

Nothing passes without a rule: TARGET[:PORTS][/PROTO], as in docs/policy.md, judged here on the address that is dialled,
whatever the hosted side says that it is. A rule for a name covers the addresses that this machine's own resolver gives it,
private ones included. This machine's loopback and own addresses, link-local and metadata addresses, and the edge stay
closed, unless a rule is for exactly that address: --allow 192.168.1.5:22, or --allow-loopback PORT for the loopback.
Names may be asked for when a rule is about them, or --dns says so.

On a terminal it shows a table of what is open (? for its keys); otherwise it prints one JSON object for each event.
The first time it needs a token (weir keys token, on the edge); then it keeps credentials of its own.

Exit status: 0 when it was ended here; 1 when it failed; 2 for a wrong command line, and with --doctor when a finding is a failure; 3 when there are no credentials, or they are
not accepted any more; 4 when another process has connected as the same client.`,
		Example: `  weir connect --tunnel https://edge.example --token-file token --allow staging-db.internal.example.com:5432
  weir connect --tunnel https://edge.example --allow '*.corp.example:443' --allow 10.1.0.0/16:5432/tcp --deny 10.1.9.0/24
  weir connect --tunnel https://edge.example --allow-loopback 5432
  weir connect --tunnel https://edge.example --ask
  weir connect --tunnel https://edge.example --audit --json | jq .
  weir connect --tunnel https://edge.example --doctor`,
		Args: wants(),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd, g) },
	}
	s := cmd.Flags()
	s.StringVar(&f.tunnel, "tunnel", "", "the edge, `https://HOST:PORT`")
	s.StringVar(&f.tunnelCA, "tunnel-ca", "", "root certificates, a PEM `FILE`, where a proxy breaks the TLS around a WebSocket (the tunnel inside stays private)")
	s.StringVar(&f.tokenFile, "token-file", "", "a one-time token, the first time: a `FILE`, or - for stdin (also: WEIR_TOKEN_FILE)")
	s.StringVar(&f.name, "client", "", "what this machine is to be called, with --token-file (default: its host name)")
	s.StringArrayVar(&f.allow, "allow", nil, "let a `RULE` pass")
	s.StringArrayVar(&f.deny, "deny", nil, "refuse a `RULE`, whatever is allowed")
	s.IntSliceVar(&f.loopback, "allow-loopback", nil, "open a `PORT` of this machine's own loopback, 127.0.0.1 and ::1")
	s.StringVarP(&f.policyFile, "policy", "f", "", "rules from a `FILE` (default: $XDG_CONFIG_HOME/weir/connect.yaml, if there is one)")
	s.StringArrayVar(&f.dns, "dns", nil, "names under a `SUFFIX` may be asked for, too; all for every name")
	s.BoolVar(&f.ask, "ask", false, "ask about what no rule is about; no answer is a no")
	s.BoolVar(&f.audit, "audit", false, "let everything but guarded addresses pass, and record what would be denied")
	s.StringVar(&f.events, "events", "", "the event log, a `PATH` (default: $XDG_STATE_HOME/weir/connect.jsonl)")
	s.StringVar(&f.transport, "transport", "", "only `quic` or websocket (default: what works)")
	s.IntVar(&f.maxFlows, "max-flows", 0, "how many flows may be open at one time (default 4096)")
	s.IntVar(&f.dayMiB, "max-mib-per-day", 0, "how much may be carried within a day, in MiB (default: no bound)")
	s.BoolVar(&f.plain, "plain", false, "lines for people instead of a table or JSON")
	s.BoolVar(&f.doctor, "doctor", false, "find out what stands between this machine and the edge, and connect nothing")
	offer(cmd, "transport", "quic", "websocket")
	return cmd
}

func (f *connectFlags) run(cmd *cobra.Command, g *globals) error {
	edge, err := parseEdge(f.tunnel)
	if err == nil {
		err = edge.trust(f.tunnelCA)
	}
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if f.doctor {
		return f.examine(ctx, cmd, g, edge)
	}
	if f.plain && g.json {
		return usageError{hint(errors.New("--plain and --json: one of them"), "--plain for people, --json for programs")}
	}
	u := newUI(os.Stderr)
	if f.ask && !canAsk() {
		return usageError{hint(errors.New("--ask needs a terminal to ask on"), "--allow RULE for what may pass")}
	}
	asked, rules, err := f.rules()
	if err != nil {
		return err
	}
	host, err := guard.NewHost(client.LocalAddrs)
	if err != nil {
		return err
	}
	list, err := client.NewPolicy(rules, host)
	if err != nil {
		return usageError{err}
	}
	for _, w := range list.Warnings() {
		u.warnf("%s", w)
	}
	if list.Empty() && !list.Audit() && !f.ask {
		u.warnf("there is no rule, so nothing passes")
		u.fix("--allow RULE for what may pass, for example --allow db.internal.example.com:5432; --ask to be asked; --audit to watch first")
	}
	who, err := f.credentials(ctx, edge, u)
	if err != nil {
		return err
	}
	stop() // from here on a signal is for the tunnel, which says farewell
	return f.connect(cmd, g, u, connection{edge: edge, who: who, list: list, asked: asked})
}

// rules reads what the user wrote, in flags, in a file, and in answers to earlier questions.
func (f *connectFlags) rules() (*askedFile, client.Rules, error) {
	r := client.Rules{Allow: f.allow, Deny: f.deny, Audit: f.audit}
	for _, rule := range f.allow {
		if host, port, _ := strings.Cut(rule, ":"); strings.EqualFold(host, "localhost") {
			return nil, r, usageError{hint(fmt.Errorf("--allow %s: the loopback has a flag of its own", rule), "--allow-loopback %s", firstWord(port, "PORT"))}
		}
	}
	for _, p := range f.loopback {
		if p < 1 || p > 65535 {
			return nil, r, usageError{fmt.Errorf("--allow-loopback %d: want a port from 1 to 65535", p)}
		}
		r.Loopback = append(r.Loopback, uint16(p))
	}
	var err error
	if r.Names, r.AllNames, err = client.ParseNames(f.dns); err != nil {
		return nil, r, usageError{hint(fmt.Errorf("--dns: %w", err), "--dns corp.example, or --dns all")}
	}
	dir, err := configDir()
	if err != nil {
		return nil, r, err
	}
	path := f.policyFile
	if path == "" {
		path = filepath.Join(dir, "connect.yaml")
	}
	r.File, err = policy.LoadFile(path)
	if err != nil && (f.policyFile != "" || !errors.Is(err, os.ErrNotExist)) {
		return nil, r, err
	}
	asked, file, err := loadAsked(filepath.Join(dir, "connect-asked.yaml"))
	r.Asked = file
	return asked, r, err
}

func firstWord(s, or string) string {
	if s = strings.Trim(s, "/tcpud"); s == "" || s == "*" {
		return or
	}
	return s
}

// configDir is where the user's own rules are.
func configDir() (string, error) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		if dir, err := os.UserConfigDir(); err == nil && !filepath.IsAbs(os.Getenv("XDG_CONFIG_HOME")) {
			return filepath.Join(dir, "weir"), nil
		}
	}
	dir, err := xdgDir("XDG_CONFIG_HOME", ".config")
	return filepath.Join(dir, "weir"), err
}

// credentials loads who this machine is to the edge, and enrols it when there is a token and nothing else.
func (f *connectFlags) credentials(ctx context.Context, edge edgeAddress, u *ui) (*creds.Client, error) {
	dir, err := credentialsDir(edge)
	if err != nil {
		return nil, err
	}
	who, err := creds.LoadClient(creds.ClientConfig{Dir: dir})
	if err == nil {
		if f.tokenFile != "" {
			u.sayf("already enrolled as %s: the token is not used", who.Identity())
		}
		return who, nil
	}
	missing := errors.Is(err, creds.ErrNotEnrolled) || errors.Is(err, creds.ErrExpired)
	if !missing || f.tokenFile == "" && os.Getenv(tokenFileEnv) == "" {
		return nil, exitError{statusNoCredentials, credentialsHint(fmt.Errorf("%s: %w", edge, err), edge)}
	}
	if f.name != "" {
		if err := creds.CheckName(f.name); err != nil {
			return nil, usageError{fmt.Errorf("--client: %w", err)}
		}
	}
	token, err := readToken(f.tokenFile, u)
	if err != nil {
		return nil, err
	}
	enrolled, _, err := enroll(ctx, edge, token, f.name)
	var refused creds.Refusal
	switch {
	case errors.As(err, &refused), errors.Is(err, creds.ErrPin):
		return nil, exitError{statusNoCredentials, err}
	case err != nil: // the edge was not reached: the token is still good
		return nil, err
	}
	warnOfSkew(u, enrolled.Skew)
	u.sayf("enrolled as %s", enrolled.Identity())
	who, err = creds.LoadClient(creds.ClientConfig{Dir: dir})
	if err != nil {
		return nil, exitError{statusNoCredentials, credentialsHint(fmt.Errorf("%s: %w", edge, err), edge)}
	}
	return who, nil
}

// examine has a look at the way to the edge.
func (f *connectFlags) examine(ctx context.Context, cmd *cobra.Command, g *globals, edge edgeAddress) error {
	dir, err := credentialsDir(edge)
	if err != nil {
		return err
	}
	cfg := client.DoctorConfig{Edge: edge.tunnelURL(), Roots: edge.roots}
	who, err := creds.LoadClient(creds.ClientConfig{Dir: dir})
	if err != nil {
		cfg.CredentialsErr = err
	} else {
		cfg.Credentials = who
	}
	var findings []finding
	for _, x := range client.Doctor(ctx, cfg) {
		findings = append(findings, finding(x))
	}
	return writeFindings(cmd, g, findings)
}

// oneLine is an error whose text is in part the edge's: it stays one line, so that nothing in it looks like a word of ours.
type oneLine struct{ error }

func (e oneLine) Error() string { return cell(e.error.Error()) }
func (e oneLine) Unwrap() error { return e.error }

// endStatus is the exit status for how a supervisor ended, with what mends it.
func endStatus(err error, edge edgeAddress) error {
	if err != nil {
		err = oneLine{err}
	}
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return nil
	case errors.Is(err, client.ErrSuperseded):
		return exitError{statusSuperseded, hint(err, "end the other one first, or enroll this machine under a name of its own: weir enroll --client NAME")}
	case errors.Is(err, creds.ErrRejected), errors.Is(err, creds.ErrExpired), errors.Is(err, creds.ErrPin), errors.Is(err, creds.ErrNotEnrolled):
		return exitError{statusNoCredentials, credentialsHint(fmt.Errorf("%s: %w", edge, err), edge)}
	}
	return fmt.Errorf("%s: %w", edge, err)
}

// drainFor is how long flows may take to end when the user quits by key; a second word ends them at once, and so does a signal.
const drainFor = 2 * time.Second

// ending ends a supervisor: in two steps when there is time, at once when not.
type ending struct {
	drain, kill func()

	mu    sync.Mutex
	begun bool
	timer *time.Timer
}

// now drains, or when that has begun already, or at once is asked for, ends it.
func (e *ending) now(atOnce bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.begun || atOnce {
		e.begun = true
		e.kill()
		return
	}
	e.begun = true
	e.drain()
	e.timer = time.AfterFunc(drainFor, e.kill)
}

func (e *ending) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
	}
}
