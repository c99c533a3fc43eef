package clientconfig

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// Action says what became of one server.
type Action string

// The actions.
const (
	Wrapped   Action = "wrapped"   // it starts under weir now
	Already   Action = "already"   // it did before
	Remote    Action = "remote"    // it is reached by URL: weir starts no program
	Skipped   Action = "skipped"   // it was left as it is; Why says why
	Unwrapped Action = "unwrapped" // it starts as it did before weir
)

// Server is what became of one server of a file.
type Server struct {
	Name    string `json:"name"`
	Section string `json:"section"`
	Action  Action `json:"action"`

	// Why explains every action but Wrapped and Unwrapped; Notes are about what a person may have to add.
	Why   string   `json:"why,omitempty"`
	Notes []string `json:"notes,omitempty"`

	// Command is what starts the server now, for Wrapped and Unwrapped.
	Command []string `json:"command,omitempty"`
}

// Change is one file before and after.
type Change struct {
	Path    string
	Before  []byte
	After   []byte
	Servers []Server

	// restored are the backups that After was taken from.
	restored []string
}

// Changed reports whether the file is to be written.
func (c *Change) Changed() bool { return !bytes.Equal(c.Before, c.After) }

// Options say how servers are to be wrapped.
type Options struct {
	// Weir is the command to start weir with: "weir", or an absolute path.
	Weir string

	// Servers limits it to those of these names; empty means all.
	Servers []string

	// Mode and Policy become --mode and --policy of "weir run"; empty leaves them out.
	Mode, Policy string

	// Home is never shared as a whole, nor is anything above it.
	Home string
}

// Wrap returns the file with its servers wrapped. Nothing is written. An error names file, line and column.
func Wrap(path string, src []byte, c Client, o Options) (*Change, error) {
	d, err := parse(path, src)
	if err != nil {
		return nil, err
	}
	change := &Change{Path: path, Before: src}
	for _, e := range d.entries(c) {
		if !o.wants(e.name) {
			continue
		}
		s, err := d.wrap(e, o)
		if err != nil {
			return nil, err
		}
		change.Servers = append(change.Servers, s)
	}
	change.After = d.apply()
	return change, d.verify(change.After)
}

func (o Options) wants(name string) bool {
	return len(o.Servers) == 0 || slices.Contains(o.Servers, name)
}

// verify makes sure that edits have left a file that parses, before anyone may write it.
func (d *document) verify(after []byte) error {
	if _, err := parse(d.path, after); err != nil {
		return fmt.Errorf("the edited file would be broken: %w", err)
	}
	return nil
}

// program is how a server is started.
type program struct {
	command *hujson.ObjectMember
	args    *hujson.ObjectMember // nil: no such member
	argv    []string
	env     []string // names
	notes   []string
}

func (d *document) wrap(e entry, o Options) (Server, error) {
	s := Server{Name: e.name, Section: e.section}
	p, action, why, err := d.program(e)
	if err != nil || action != "" {
		s.Action, s.Why = action, why
		return s, err
	}
	switch {
	case underWeir(p.argv, o.Weir):
		s.Action, s.Why = Already, "it starts under weir"
		return s, nil
	case startsContainer(p.argv):
		s.Action, s.Why = Skipped, p.argv[0]+" starts the server outside of any sandbox around it"
		return s, nil
	}
	shares, notes := sharesOf(p.argv, o.Home)
	prelude := o.prelude(e.name, p.env, shares)
	d.insert(e, p, prelude, o.Weir)
	s.Action, s.Notes = Wrapped, append(p.notes, notes...)
	s.Command = slices.Concat([]string{o.Weir}, prelude, p.argv)
	return s, nil
}

// program reads an entry. An action that is not empty says that there is nothing to wrap.
func (d *document) program(e entry) (p program, action Action, why string, err error) {
	object, ok := e.value.Value.(*hujson.Object)
	if !ok {
		return p, Skipped, "it is not an object", nil
	}
	members := map[string]*hujson.ObjectMember{}
	for _, name := range []string{"command", "args", "env", "envFile", "url", "serverUrl", "httpUrl", "type"} {
		if members[name], err = d.member(object, name); err != nil {
			return p, "", "", err
		}
	}
	if members["command"] == nil {
		if members["url"] != nil || members["serverUrl"] != nil || members["httpUrl"] != nil {
			return p, Remote, "it is reached by URL, weir starts no program for it", nil
		}
		return p, Skipped, "it has no command", nil
	}
	command, ok := stringOf(members["command"].Value)
	if !ok || command == "" {
		return p, Skipped, "its command is not a string", nil
	}
	p.command, p.args, p.argv = members["command"], members["args"], []string{command}
	if p.args != nil {
		args, ok := stringsOf(p.args.Value)
		if !ok {
			return p, Skipped, "its args are not a list of strings", nil
		}
		p.argv = append(p.argv, args...)
	}
	p.env, p.notes = envNames(members["env"])
	if members["envFile"] != nil {
		p.notes = append(p.notes, "weir does not know the variables in its envFile: add --env NAME for each that the server needs")
	}
	return p, "", "", nil
}

// envNames returns the variables that the client sets for the server, in the file's order.
func envNames(m *hujson.ObjectMember) (names, notes []string) {
	if m == nil {
		return nil, nil
	}
	object, ok := m.Value.Value.(*hujson.Object)
	if !ok {
		return nil, nil
	}
	for i := range object.Members {
		name := memberName(object.Members[i])
		if name == "" || strings.ContainsAny(name, "=\x00") {
			notes = append(notes, fmt.Sprintf("the variable %q cannot be passed on", name))
		} else if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, notes
}

// prelude returns what comes between weir and the server's own command.
func (o Options) prelude(name string, env, shares []string) []string {
	args := []string{"run", "--name", appName(name)}
	if o.Mode != "" {
		args = append(args, "--mode", o.Mode)
	}
	if o.Policy != "" {
		args = append(args, "--policy", o.Policy)
	}
	for _, e := range env {
		args = append(args, "--env", e)
	}
	for _, s := range shares {
		args = append(args, "--share", s)
	}
	return append(args, "--")
}

// insert notes the edits that put weir and the prelude before the command. The text of the command moves as it is.
func (d *document) insert(e entry, p program, prelude []string, weir string) {
	command := p.command.Value
	list := make([]string, 0, len(prelude)+1)
	for _, arg := range prelude {
		list = append(list, quote(arg))
	}
	text := strings.Join(append(list, string(d.src[command.StartOffset:command.EndOffset])), ", ")
	d.replace(command.StartOffset, command.EndOffset, quote(weir))
	if p.args == nil {
		separator := ", "
		if indent := d.indentOf(p.command.Name); indent != "" {
			separator = "," + indent
		}
		d.replace(command.EndOffset, command.EndOffset, separator+`"args": [`+text+`]`)
		return
	}
	array := p.args.Value.Value.(*hujson.Array)
	if len(array.Elements) == 0 {
		start := p.args.Value.StartOffset + 1
		d.replace(start, start, text)
		return
	}
	first := array.Elements[0]
	separator := ", "
	if indent := d.indentOf(first); indent != "" {
		separator = "," + indent
	}
	d.replace(first.StartOffset, first.StartOffset, text+separator)
}

// underWeir reports whether argv is a "weir run".
func underWeir(argv []string, weir string) bool {
	return (argv[0] == weir || path.Base(argv[0]) == "weir") && len(argv) > 1 && argv[1] == "run"
}

// startsContainer reports whether argv asks a daemon outside to start the server.
func startsContainer(argv []string) bool {
	return slices.Contains([]string{"docker", "podman", "nerdctl"}, path.Base(argv[0]))
}

// appName turns a server's name into a name for "weir run": letters, digits, dot, underscore and hyphen, at most 64. A name
// that had to be changed gets a part of its digest, so that two servers never become one app.
func appName(name string) string {
	clean := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, name)
	if clean == name && len(name) <= 64 && strings.Trim(name, ".") != "" && name[0] != '-' {
		return name
	}
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:6]
	clean = strings.Trim(clean[:min(len(clean), 56)], "-.")
	if clean == "" {
		clean = "server"
	}
	return clean + "-" + digest
}

// quote writes s as a JSON string as people would: without escaping what HTML would need.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string cannot fail
	return strings.TrimSuffix(b.String(), "\n")
}
