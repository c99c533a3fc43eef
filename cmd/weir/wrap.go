//go:build linux && !client

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/clientconfig"
)

// wrapFlags are the flags of "weir wrap" and "weir unwrap".
type wrapFlags struct {
	file, mode, policy string
	servers            []string
	dryRun, absolute   bool
}

func newWrapCommand() *cobra.Command {
	f := &wrapFlags{}
	cmd := &cobra.Command{
		Use:   "wrap CLIENT",
		Short: "Make an MCP client start its servers under weir run",
		Long: `Rewrite the configuration of an MCP client so that each server that it starts as a program starts under "weir run", with
the variables that the client sets for it and, for servers of files, the paths it was given. Servers reached by URL stay
as they are. Comments and layout are kept, the old content is kept in a file beside, and "weir unwrap" undoes it.

Clients: ` + strings.Join(clientconfig.Names(), ", ") + `. The user's own files are rewritten; a project's with --file.`,
		Example: `  weir wrap claude-desktop --dry-run              show what would change
  weir wrap claude-desktop                        change it; then restart the client
  weir wrap cursor --server github --mode audit   one server, recording only
  weir wrap vscode --file .vscode/mcp.json        a project's file
  weir wrap claude-code --policy ~/weir.yaml --absolute
  weir unwrap claude-desktop                      as it was before`,
		Args:      oneClient,
		ValidArgs: clientconfig.Names(),
		RunE:      func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0], wrapping()) },
	}
	f.register(cmd)
	s := cmd.Flags()
	s.StringVar(&f.mode, "mode", "", "start the servers with --mode audit or enforce")
	s.StringVarP(&f.policy, "policy", "f", "", "start the servers with the policy `FILE`")
	s.BoolVar(&f.absolute, "absolute", false, "name weir by its path, for clients that do not have it on their PATH")
	return cmd
}

func newUnwrapCommand() *cobra.Command {
	f := &wrapFlags{absolute: true} // whatever this binary is called, its own entries are known
	cmd := &cobra.Command{
		Use:   "unwrap CLIENT",
		Short: "Undo weir wrap",
		Long: `Give an MCP client's configuration back as it was before "weir wrap": byte for byte when the file is still as weir left
it, else by turning back each server's entry and leaving all other changes alone.`,
		Example: `  weir unwrap cursor --dry-run
  weir unwrap cursor
  weir unwrap vscode --file .vscode/mcp.json --server github`,
		Args:      oneClient,
		ValidArgs: clientconfig.Names(),
		RunE:      func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0], unwrapping()) },
	}
	f.register(cmd)
	return cmd
}

func (f *wrapFlags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.file, "file", "", "the configuration `FILE`, instead of the user's own")
	s.StringArrayVar(&f.servers, "server", nil, "only the server `NAME` (repeatable)")
	s.BoolVar(&f.dryRun, "dry-run", false, "show a diff and change nothing")
}

func oneClient(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{hint(fmt.Errorf("%s: want one CLIENT of %s", cmd.CommandPath(), strings.Join(clientconfig.Names(), ", ")), "%s --help", cmd.CommandPath())}
	}
	return nil
}

// direction is what is done to files: how a new content is made and how it is written.
type direction struct {
	make func(path string, src []byte, c clientconfig.Client, o clientconfig.Options) (*clientconfig.Change, error)
	save func(*clientconfig.Change) (backup string, err error)
}

func wrapping() direction { return direction{clientconfig.Wrap, clientconfig.SaveWrapped} }

func unwrapping() direction {
	return direction{clientconfig.Unwrap, func(c *clientconfig.Change) (string, error) { return "", clientconfig.SaveUnwrapped(c) }}
}

// wrapResult is what --json prints.
type wrapResult struct {
	Client string     `json:"client"`
	DryRun bool       `json:"dry_run"`
	Files  []wrapFile `json:"files"`
}

type wrapFile struct {
	Path    string                `json:"path"`
	Changed bool                  `json:"changed"`
	Backup  string                `json:"backup,omitempty"`
	Diff    string                `json:"diff,omitempty"`
	Servers []clientconfig.Server `json:"servers"`
}

// run makes all new contents before it writes the first, so that a broken file leaves all files alone.
func (f *wrapFlags) run(cmd *cobra.Command, name string, d direction) error {
	client, err := clientconfig.Find(name)
	if err != nil {
		return usageError{err}
	}
	options, err := f.options()
	if err != nil {
		return err
	}
	paths, err := f.paths(client, cmd.Name())
	if err != nil {
		return err
	}
	var changes []*clientconfig.Change
	for _, path := range paths {
		src, err := clientconfig.Read(path)
		if err != nil {
			return err
		}
		change, err := d.make(path, src, client, options)
		if err != nil {
			return err
		}
		changes = append(changes, change)
	}
	if err := f.checkServers(changes); err != nil {
		return err
	}
	result := wrapResult{Client: name, DryRun: f.dryRun, Files: []wrapFile{}}
	for _, change := range changes {
		file := wrapFile{Path: change.Path, Changed: change.Changed(), Servers: maskServers(change.Servers)}
		if f.dryRun {
			file.Diff = clientconfig.Diff(change.Path, change.Before, change.After)
		} else if file.Backup, err = d.save(change); err != nil {
			return err
		}
		result.Files = append(result.Files, file)
	}
	if wantsJSON(cmd) {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(result)
	}
	return result.print(cmd.OutOrStdout())
}

func (f *wrapFlags) options() (clientconfig.Options, error) {
	o := clientconfig.Options{Weir: "weir", Servers: f.servers, Mode: f.mode}
	if !slices.Contains([]string{"", "audit", "enforce"}, f.mode) {
		return o, usageError{fmt.Errorf("--mode %q: want audit or enforce", f.mode)}
	}
	var err error
	if o.Home, err = os.UserHomeDir(); err != nil {
		return o, hint(fmt.Errorf("find home: %w", err), "HOME=/path/to/home weir wrap ...")
	}
	if f.absolute {
		if o.Weir, err = os.Executable(); err != nil {
			return o, fmt.Errorf("find weir: %w", err)
		}
	}
	if f.policy != "" {
		if o.Policy, err = filepath.Abs(f.policy); err != nil {
			return o, fmt.Errorf("--policy: %w", err)
		}
		if _, err = os.Stat(o.Policy); err != nil {
			return o, fmt.Errorf("--policy: %w", err)
		}
	}
	return o, nil
}

// paths returns the files to rewrite: the one that was named, or those of the user's own that exist.
func (f *wrapFlags) paths(c clientconfig.Client, verb string) ([]string, error) {
	if f.file != "" {
		return []string{f.file}, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, hint(fmt.Errorf("find home: %w", err), "HOME=/path/to/home weir %s ..., or --file FILE", verb)
	}
	all := c.Paths(clientconfig.Host{Home: home, GOOS: runtime.GOOS, Getenv: os.Getenv})
	var found []string
	for _, path := range all {
		if _, err := os.Stat(path); err == nil {
			found = append(found, path)
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	err = fmt.Errorf("no configuration of %s found at %s", c.Name, strings.Join(all, ", "))
	if project := c.ProjectPath(); project != "" {
		return nil, hint(err, "weir %s %s --file %s", verb, c.Name, project)
	}
	return nil, hint(err, "weir %s %s --file PATH", verb, c.Name)
}

// checkServers makes sure that every --server was there.
func (f *wrapFlags) checkServers(changes []*clientconfig.Change) error {
	for _, want := range f.servers {
		found := slices.ContainsFunc(changes, func(c *clientconfig.Change) bool {
			return slices.ContainsFunc(c.Servers, func(s clientconfig.Server) bool { return s.Name == want })
		})
		if !found {
			return errors.New("--server " + want + ": no server of that name in " + joinPaths(changes))
		}
	}
	return nil
}

func joinPaths(changes []*clientconfig.Change) string {
	var paths []string
	for _, c := range changes {
		paths = append(paths, c.Path)
	}
	return strings.Join(paths, ", ")
}

func maskServers(servers []clientconfig.Server) []clientconfig.Server {
	out := append([]clientconfig.Server{}, servers...)
	for i := range out {
		out[i].Command = event.MaskArgs(out[i].Command)
	}
	return out
}

// print tells people what was done, or shows the diffs.
func (r *wrapResult) print(w io.Writer) error {
	var b strings.Builder
	changed := false
	for _, file := range r.Files {
		changed = changed || file.Changed
		if r.DryRun {
			b.WriteString(escapeLines(file.Diff))
		}
		file.print(&b)
	}
	switch {
	case r.DryRun:
		b.WriteString("this was a dry run: nothing is changed\n")
	case changed:
		fmt.Fprintf(&b, "restart %s for it to take effect\n", r.Client)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (f *wrapFile) print(b *strings.Builder) {
	fmt.Fprintln(b, event.Escape(f.Path))
	if len(f.Servers) == 0 {
		fmt.Fprintln(b, "  no servers")
	}
	for _, s := range f.Servers {
		what := s.Why
		if len(s.Command) > 0 {
			what = strings.Join(s.Command, " ")
		}
		fmt.Fprintf(b, "  %-9s  %s: %s\n", s.Action, event.Escape(s.Name), event.Escape(what))
		for _, note := range s.Notes {
			fmt.Fprintf(b, "             note: %s\n", event.Escape(note))
		}
	}
	if f.Backup != "" {
		fmt.Fprintf(b, "  backup     %s\n", event.Escape(f.Backup))
	}
}

// escapeLines is [event.Escape] for text whose line breaks and tabs are to stay.
func escapeLines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		body, broken := strings.CutSuffix(line, "\n")
		for i, field := range strings.Split(strings.TrimSuffix(body, "\r"), "\t") {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(event.Escape(field))
		}
		if broken {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
