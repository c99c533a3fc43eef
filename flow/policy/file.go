package policy

import (
	_ "embed"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// Bounds of a policy file.
const (
	MaxFile   = 1 << 20 // octets
	MaxLine   = 4096    // octets of a line: the YAML lexer takes time in the square of it
	MaxErrors = 20      // errors that are told at once
)

// File is a parsed policy file. It is not changed after parsing.
type File struct {
	Name     string // as given to LoadFile or ParseFile
	Mode     string // ModeAudit, ModeEnforce, or "" if not said
	Groups   map[string][]Target
	Allow    []Rule // of the defaults
	Deny     []Rule
	Apps     []App // in the order of the file
	Warnings []*Error

	hasDefaults bool
	lines       []string // of the text, to show where something is wrong
}

// line returns a line of the text, "" if there is none.
func (f *File) line(n int) string {
	if f == nil || n < 1 || n > len(f.lines) {
		return ""
	}
	return f.lines[n-1]
}

// App is what a file says about one app.
type App struct {
	Name         string
	Command      []string // nil if not said
	Env          []string // names of variables passed on from weir's environment
	Route        string   // default route; "" if not said
	Allow, Deny  []Rule
	InstallAllow []Rule // active until InstallDone
}

// App returns what the file says about an app.
func (f *File) App(name string) (App, bool) {
	if f == nil {
		return App{}, false
	}
	for _, a := range f.Apps {
		if a.Name == name {
			return a, true
		}
	}
	return App{}, false
}

// Knows reports whether the file says anything about an app: has it, or defaults for all, or no apps at all, which leaves
// every app with the file's mode.
func (f *File) Knows(app string) bool {
	_, known := f.App(app)
	return known || f.hasDefaults || len(f.Apps) == 0
}

// Schema returns the JSON Schema (draft 2020-12) of the policy file.
func Schema() []byte { return slices.Clone(schema) }

//go:embed schema.json
var schema []byte

// LoadFile reads and parses a policy file of at most [MaxFile] octets. What is wrong in the text is returned as [Errors].
func LoadFile(path string) (*File, error) {
	data, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParseFile(path, data)
}

// ReadFile reads the text of a policy file for [ParseFile], no more of it than tells that it is too long.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open policy: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	return data, nil
}

// ParseFile parses the text of a policy file; name is the File of positions and errors.
// Everything that is wrong is reported together, as [Errors] with at most [MaxErrors] members.
func ParseFile(name string, data []byte) (*File, error) {
	d := &document{name: name, text: data}
	f := &File{Name: name, Groups: map[string][]Target{}}
	if root := d.parse(); root != nil {
		d.root(f, root)
	}
	if len(d.errs) > 0 {
		sort.SliceStable(d.errs, func(i, j int) bool {
			a, b := d.errs[i], d.errs[j]
			return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
		})
		return nil, d.errs[:min(len(d.errs), MaxErrors)]
	}
	f.Warnings, f.lines = d.warnings, d.lines
	return f, nil
}

// root reads the top of the file; groups first, since rules anywhere may use them.
func (d *document) root(f *File, n ast.Node) {
	fields := d.mapping(n, "the file", "version", "mode", "groups", "defaults", "apps")
	version := false
	for _, m := range fields {
		switch m.key {
		case "version":
			version = true
			if v, ok := m.value.(*ast.IntegerNode); !ok || v.GetToken().Value != "1" {
				d.fail(m.value, "unknown version of the file format", "write version: 1")
			}
		case "mode":
			f.Mode = d.mode(m.value)
		case "groups":
			d.groups(f, m.value)
		}
	}
	if !version {
		d.warn(n, "the file does not say its version", "write version: 1 in the first line")
	}
	for _, m := range fields {
		switch m.key {
		case "defaults":
			f.hasDefaults = true
			for _, s := range d.mapping(m.value, "defaults", "allow", "deny") {
				switch s.key {
				case "allow":
					f.Allow = d.rules(f, s.value, AllowRule)
				case "deny":
					f.Deny = d.rules(f, s.value, DenyRule)
				}
			}
		case "apps":
			for _, s := range d.mapping(m.value, "apps") {
				f.Apps = append(f.Apps, d.app(f, s))
			}
		}
	}
}

func (d *document) mode(n ast.Node) string {
	s, ok := d.text1(n, "mode")
	switch {
	case !ok:
	case s.text == "ask":
		d.fail(n, "mode ask is not there yet", "write enforce or audit")
	case s.text != ModeAudit && s.text != ModeEnforce:
		d.fail(n, fmt.Sprintf("unknown mode %q", s.text), "write enforce or audit")
	default:
		return s.text
	}
	return ""
}

func (d *document) app(f *File, m member) App {
	a := App{Name: m.key}
	if !AppName(m.key) {
		d.fail(m.keyNode, fmt.Sprintf("%q is no app name", m.key), "write letters, digits, dots, hyphens and underscores, at most 64, beginning with a letter or digit")
	}
	for _, s := range d.mapping(m.value, "an app", "command", "env", "route", "allow", "deny", "install") {
		switch s.key {
		case "command":
			a.Command = d.command(s.value)
		case "env":
			a.Env = d.env(s.value)
		case "route":
			if t, ok := d.text1(s.value, "route"); ok {
				if msg, fix := checkRoute(t.text); msg != "" {
					d.fail(s.value, msg, strings.Replace(fix, "via ", "route: ", 1))
				}
				a.Route = t.text
			}
		case "allow":
			a.Allow = d.rules(f, s.value, AllowRule)
		case "deny":
			a.Deny = d.rules(f, s.value, DenyRule)
		case "install":
			for _, i := range d.mapping(s.value, "install", "allow") {
				a.InstallAllow = d.rules(f, i.value, AllowRule)
			}
		}
	}
	return a
}

func (d *document) command(n ast.Node) []string {
	if s, ok := n.(*ast.SequenceNode); ok && len(s.Values) == 0 {
		d.fail(n, "the command is empty", "write the program and its arguments, as in command: [npx, -y, server], or remove the key")
		return nil
	}
	if s, ok := n.(*ast.StringNode); ok {
		d.fail(n, "command is a list, not a text: no shell takes it apart", "write ["+strings.Join(strings.Fields(s.Value), ", ")+"]")
		return nil
	}
	var words []string
	for _, t := range d.list(n, "command") {
		words = append(words, t.text)
	}
	return words
}

func (d *document) env(n ast.Node) []string {
	var names []string
	for _, t := range d.list(n, "env") {
		name, _, value := strings.Cut(t.text, "=")
		switch {
		case value:
			d.failAt(t.pos, "the file names variables, it does not hold their values", "write "+name+" and set it in weir's environment")
		case !envName(name):
			d.failAt(t.pos, fmt.Sprintf("%q is no name of a variable", name), "write letters, digits and underscores, as in GITHUB_TOKEN")
		}
		names = append(names, name)
	}
	return names
}

func (d *document) groups(f *File, n ast.Node) {
	for _, m := range d.mapping(n, "groups") {
		switch {
		case !groupName(m.key):
			d.fail(m.keyNode, fmt.Sprintf("%q is no group name", m.key), `write @ and then lower case letters, digits and hyphens, in quotes: "@corp"`)
		case builtinGroup(m.key):
			d.fail(m.keyNode, m.key+" is built in", "choose another name")
		}
		targets := []Target{}
		for _, t := range d.list(m.value, "a group") {
			if strings.HasPrefix(t.text, "@") {
				d.failAt(t.pos, "a group cannot hold another group", "list the names and addresses themselves")
				continue
			}
			r, ok := d.rule(t, DenyRule) // a deny, since its target may stand alone
			switch {
			case !ok:
			case r.Ports.Said() || r.Proto != 0:
				d.failAt(t.pos, "a group holds targets without ports and protocol", fmt.Sprintf("write %s here, and the ports behind %s in the rule", r.Target, m.key))
			default:
				targets = append(targets, r.Target)
			}
		}
		f.Groups[m.key] = targets
	}
}

// rules reads a list of rules; groups must be known.
func (d *document) rules(f *File, n ast.Node, action Action) []Rule {
	var rules []Rule
	for _, t := range d.list(n, action.String()) {
		r, ok := d.rule(t, action)
		if !ok {
			continue
		}
		if r.Target.Kind == GroupTarget {
			if msg, fix := unknownGroup(f, r.Target.Name); msg != "" {
				d.failAt(t.pos, msg, fix)
				continue
			}
		}
		rules = append(rules, r)
	}
	return rules
}

func (d *document) rule(t scalar, action Action) (Rule, bool) {
	r, err := ParseRule(t.text, action, t.pos)
	if err != nil {
		e := err.(*Error)
		if !t.plain {
			e.Column = t.pos.Column // escapes: columns inside the text are not columns of the line
		}
		d.add(e)
		return Rule{}, false
	}
	if r.Warning != "" {
		d.warnings = append(d.warnings, d.located(t.pos, r.Warning, ""))
	}
	return r, true
}

// unknownGroup says what is wrong with the name of a group in a rule.
func unknownGroup(f *File, name string) (msg, fix string) {
	known := []string{"@public", "@private", "@metadata", "@any"}
	if f != nil {
		if _, ok := f.Groups[name]; ok {
			return "", ""
		}
		n := len(known)
		for g := range f.Groups {
			known = append(known, g)
		}
		sort.Strings(known[n:])
	}
	if slices.Contains(known, name) {
		return "", ""
	}
	if near := nearest(name, known); near != "" {
		return "unknown group " + name, "write " + near
	}
	return "unknown group " + name, "known are " + strings.Join(known, ", ") + "; others are defined under groups"
}

func builtinGroup(name string) bool {
	return name == "@public" || name == "@private" || name == "@metadata" || name == "@any"
}

// AppName reports whether a name may be the key of an app in a policy file.
func AppName(s string) bool {
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return s != "" && len(s) <= 64 && strings.IndexByte(alnum, s[0]) >= 0 && strings.Trim(s, alnum+"._-") == ""
}

func envName(s string) bool {
	return s != "" && (s[0] < '0' || s[0] > '9') && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}
