//go:build linux && !client

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/tproxy/rules"
)

func newTProxyCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tproxy",
		Short: "Stand before containers that are there already",
		Long: `Take over the network of containers that some engine has started: every TCP and UDP flow of a container on a bridge is
named, judged by the rules of its app, carried and recorded, as weir run does for a program. The app of a container is its
name. It needs root: weir changes the host's packet filter and routing, in tables of its own.`,
		Example: `  sudo weir tproxy up --bridge podman1 -f weir.yaml
  sudo weir tproxy up --netns web --mode enforce --allow api.github.com
  sudo weir tproxy down`,
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTProxyUpCommand(g), newTProxyDownCommand(g))
	return cmd
}

// upFlags are the flags of "weir tproxy up".
type upFlags struct {
	bridge, netns, policyFile, mode, events string
	allow, deny                             []string
	quiet                                   bool
}

func newTProxyUpCommand(g *globals) *cobra.Command {
	f := &upFlags{}
	cmd := &cobra.Command{
		Use:   "up (--bridge NAME | --netns PATH|NAME|PID) [flags]",
		Short: "Carry and judge what the containers on a bridge, or in one network namespace, send",
		Long: `Carry and judge what the containers on a bridge send, those that come later too, until SIGINT or SIGTERM; then the host's
network is as it was. Connections that the containers have open are cut.

Each container is the app of its name: -f FILE has the rules, --allow and --deny hold for all of them. Without a rule
everything but guarded and private addresses passes and is recorded (audit). Other containers on the bridge are private
addresses like any other, and the host's own addresses, the bridge's among them, are guarded. Published ports stay
reachable from outside. Questions to the resolver of a container are answered by weir: those that the resolv.conf of its
first process names. A namespace that no process is in has none; there, --allow SERVER:53 lets it ask.

If weir is killed, its rules stay, and the containers have no way out: start it again, or open the way with
weir tproxy down.

Exit status: 0 after a signal or weir tproxy down; 1 if it could not come up or had to give up.`,
		Example: `  sudo weir tproxy up --bridge podman1
  sudo weir tproxy up --bridge docker0 -f weir.yaml --events /var/lib/weir/events.jsonl
  sudo weir tproxy up --netns "$(podman inspect -f '{{.NetworkSettings.SandboxKey}}' web)" --allow api.github.com
  sudo weir tproxy up --bridge podman1 --json        the first line says when it is up`,
		Args: wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			up := &hostUp{upFlags: *f, globals: *g, ui: newUI(os.Stderr), out: cmd.OutOrStdout()}
			up.ui.color = up.ui.color && !g.noColor
			return withHostHint(up.run())
		},
	}
	s := cmd.Flags()
	s.StringVar(&f.bridge, "bridge", "", "the bridge `NAME` that the containers are on")
	s.StringVar(&f.netns, "netns", "", "the network namespace of one container: a `PATH`, a name in /run/netns or a process id")
	s.StringVarP(&f.policyFile, "policy", "f", "", "policy `FILE` with the containers' apps (default: weir.yaml of the configuration directory, if it is there)")
	s.StringArrayVar(&f.allow, "allow", nil, "allow `RULE` to every container (repeatable)")
	s.StringArrayVar(&f.deny, "deny", nil, "deny `RULE` to every container (repeatable)")
	s.StringVar(&f.mode, "mode", "", "`MODE` audit: let pass and record; enforce: deny what no rule allows (default: by the rules)")
	s.StringVar(&f.events, "events", "", "event log: `PATH` (default: the state directory's events.jsonl)")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "say nothing on stderr about denials and containers")
	offer(cmd, "mode", "audit", "enforce")
	return cmd
}

func newTProxyDownCommand(g *globals) *cobra.Command {
	bridge := ""
	cmd := &cobra.Command{
		Use:   "down [--bridge NAME]",
		Short: "End weir tproxy up, and remove all that one which was killed has left",
		Long: `End weir tproxy up on the bridge, or on every link that has one, and remove what is left of it: nftables tables, ip rules,
routes, and settings that were switched off. Says what was removed. Where there is nothing it does nothing.`,
		Example: `  sudo weir tproxy down
  sudo weir tproxy down --bridge podman1 --json`,
		Args: wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withHostHint(hostDown(cmd.OutOrStdout(), bridge, g.json))
		},
	}
	cmd.Flags().StringVar(&bridge, "bridge", "", "the bridge `NAME`, or the host's end of a container's link (default: every one)")
	return cmd
}

// downResult is what weir tproxy down did on one link.
type downResult struct {
	Link    string   `json:"link"`
	Ended   int      `json:"ended"` // the process that was up, 0: none was
	Removed []string `json:"removed"`
}

func hostDown(w io.Writer, link string, asJSON bool) error {
	links := []string{link}
	if link == "" {
		var err error
		if links, err = rules.HostLinks(); err != nil {
			return err
		}
	}
	results := []downResult{}
	for _, link := range links {
		r := downResult{Link: link, Removed: []string{}}
		pid, err := endHost(link)
		if err != nil {
			return err
		}
		r.Ended = pid
		removed, err := rules.RemoveHost(link)
		if err != nil {
			return err
		}
		r.Removed = append(r.Removed, removed...)
		results = append(results, r)
	}
	if asJSON {
		return json.NewEncoder(w).Encode(results)
	}
	for _, r := range results {
		if r.Ended != 0 {
			fmt.Fprintf(w, "%s: ended process %d\n", r.Link, r.Ended)
		}
		for _, what := range r.Removed {
			fmt.Fprintf(w, "%s: removed %s\n", r.Link, what)
		}
		if r.Ended == 0 && len(r.Removed) == 0 {
			fmt.Fprintf(w, "%s: nothing to remove\n", r.Link)
		}
	}
	if len(results) == 0 {
		fmt.Fprintln(w, "nothing to remove")
	}
	return nil
}

// withHostHint adds what mends it where that is known.
func withHostHint(err error) error {
	switch {
	case errors.Is(err, rules.ErrPrivilege):
		return hint(err, "sudo weir tproxy ... (or as root in a network namespace of your own)")
	case errors.Is(err, rules.ErrNoTPROXY):
		return hint(err, "sudo modprobe -a nft_tproxy nf_tproxy_ipv4 nf_tproxy_ipv6, or a kernel with CONFIG_NFT_TPROXY")
	case errors.Is(err, rules.ErrNoNFTables):
		return hint(err, "sudo modprobe -a nf_tables nf_conntrack nfnetlink_log, or a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_BRIDGE")
	case errors.Is(err, rules.ErrNoLink):
		return hint(err, "weir tproxy up --bridge NAME, for containers whose links end at a bridge")
	case errors.Is(err, rules.ErrNoBridge):
		names, listErr := rules.Bridges()
		if listErr != nil || len(names) == 0 {
			return hint(err, "there are no bridges here: start a container first, or name its namespace with --netns")
		}
		return hint(err, "name one of these: %s", strings.Join(names, ", "))
	}
	return err
}

// policyOf is what the policy of a container's app is made of. known is false for an app that the file says nothing about: it
// may do nothing then that no flag allows.
func (f *upFlags) policyOf(app string, text []byte, file *policy.File) (c policyConfig, known bool) {
	c = policyConfig{Mode: f.mode, Allow: f.allow, Deny: f.deny, App: app, OnHost: true}
	switch {
	case file == nil:
		return c, true
	case file.Knows(app):
		c.FileName, c.File = f.policyFile, text
		return c, true
	}
	if c.Mode == "" {
		c.Mode = policy.ModeEnforce
	}
	return c, false
}
