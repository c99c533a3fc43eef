package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth bounds how deep a file may nest, far above what the format needs: the YAML parser is recursive.
const maxDepth = 32

// document reads the YAML of a policy file. It walks the syntax tree itself, rather than decoding into structs, so that
// every complaint has a line and a column, and so that YAML's cleverness (anchors, aliases, merges, tags, several
// documents, text that is a number) is refused instead of being understood in two ways.
type document struct {
	name     string
	text     []byte
	lines    []string
	errs     Errors
	warnings []*Error
}

// member is one key of a mapping.
type member struct {
	key            string
	keyNode, value ast.Node
}

// scalar is one string of the file.
type scalar struct {
	text  string
	pos   Pos  // of the first character of the text, inside the quotes
	plain bool // the text stands in the line as it is, without escapes
}

// parse returns the root of the only document, nil when it had to complain.
func (d *document) parse() ast.Node {
	switch {
	case len(d.text) > MaxFile:
		d.failAt(Pos{Line: 1, Column: 1}, fmt.Sprintf("the file is larger than %d octets", MaxFile), "split it by app")
		return nil
	case !utf8.Valid(d.text):
		d.failAt(Pos{Line: 1, Column: 1}, "the file is not UTF-8 text", "save it as UTF-8")
		return nil
	}
	for i, r := range string(d.text) {
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f || r == 0xfeff && i > 0 {
			before := string(d.text[:i])
			line := strings.Count(before, "\n") + 1
			d.failAt(Pos{Line: line, Column: utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1},
				fmt.Sprintf("control character %U", r), "remove it")
			return nil
		}
	}
	d.lines = strings.Split(strings.ReplaceAll(string(d.text), "\r\n", "\n"), "\n")
	for i, line := range d.lines {
		if len(line) > MaxLine {
			d.failAt(Pos{Line: i + 1, Column: 1}, fmt.Sprintf("the line is %d octets long, at most %d are allowed", len(line), MaxLine), "write lists with one entry per line")
			return nil
		}
	}
	tokens := lexer.Tokenize(string(d.text))
	if d.tooDeep(tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		d.syntax(err)
		return nil
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if root != nil {
			d.fail(doc.Body, "the file holds more than one document", "remove the line ---")
			return nil
		}
		root = doc.Body
	}
	if root == nil {
		d.failAt(Pos{Line: 1, Column: 1}, "the file is empty", "write version: 1 and apps, see docs/policy.md")
	}
	return root
}

// tooDeep looks for nesting that would exhaust the stack of a recursive parser.
func (d *document) tooDeep(tokens token.Tokens) bool {
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType:
			if t.Position.Column > 8*maxDepth {
				depth = maxDepth + 1
			}
		case token.MappingValueType:
			// Block mappings nest by indentation, and the key of one begins its line.
			if indent := t.Position.IndentNum; indent > 8*maxDepth {
				depth = maxDepth + 1
			}
		}
		if depth > maxDepth {
			d.failAt(Pos{Line: t.Position.Line, Column: t.Position.Column}, "the file is nested too deep", "see docs/policy.md for the format")
			return true
		}
	}
	return false
}

// syntax turns the YAML parser's complaint into one of ours.
func (d *document) syntax(err error) {
	var y yaml.Error
	if !errors.As(err, &y) || y.GetToken() == nil || y.GetToken().Position == nil {
		d.failAt(Pos{Line: 1, Column: 1}, "not YAML", "")
		return
	}
	at, msg, fix := y.GetToken().Position, y.GetMessage(), ""
	switch {
	case strings.Contains(msg, "'@'"):
		msg, fix = "a text that begins with @ needs quotes", `write "@public:443"`
	case strings.Contains(msg, "already defined"):
		msg, fix = "the key "+y.GetToken().Value+" is there twice", "join the two"
	case strings.Contains(msg, "cannot start any token"):
		msg, fix = "a tab in the indentation", "indent with spaces"
	case strings.Contains(msg, "value is not allowed in this context"):
		msg, fix = "this does not belong here", "check the indentation, and put texts with brackets or colons in quotes"
	default:
		msg = "not YAML: " + firstLine(msg)
	}
	d.failAt(Pos{Line: at.Line, Column: at.Column}, msg, fix)
}

// mapping returns the members of a mapping. keys are those that are known; none means that any will do.
func (d *document) mapping(n ast.Node, what string, keys ...string) []member {
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{m}
	default:
		d.wrongType(n, what, "a mapping: lines of key: value")
		return nil
	}
	var out []member
	seen := map[string]bool{}
	for _, v := range values {
		k, ok := v.Key.(*ast.StringNode)
		switch {
		case !ok:
			d.fail(v.Key, fmt.Sprintf("a key of %s is a text", what), "write a plain word before the colon")
		case seen[k.Value]:
			d.fail(k, fmt.Sprintf("the key %q is there twice", k.Value), "join the two")
		case len(keys) > 0 && !slices.Contains(keys, k.Value):
			d.unknownKey(k, what, keys)
		default:
			seen[k.Value] = true
			out = append(out, member{k.Value, k, v.Value})
		}
	}
	return out
}

func (d *document) unknownKey(k *ast.StringNode, what string, keys []string) {
	synonyms := map[string]string{
		"servers": "apps", "app": "apps", "cmd": "command", "run": "command", "environment": "env", "group": "groups",
		"default": "defaults", "via": "route", "block": "deny", "denied": "deny", "allowed": "allow", "domains": "allow",
	}
	fix := "known are " + strings.Join(keys, ", ")
	if near := nearest(k.Value, keys); near != "" {
		fix = "write " + near
	} else if s := synonyms[strings.ToLower(k.Value)]; s != "" && slices.Contains(keys, s) {
		fix = "write " + s
	}
	d.fail(k, fmt.Sprintf("unknown key %q in %s", k.Value, what), fix)
}

// list returns the texts of a sequence.
func (d *document) list(n ast.Node, what string) []scalar {
	s, ok := n.(*ast.SequenceNode)
	if !ok {
		if t, isText := n.(*ast.StringNode); isText {
			d.fail(n, what+" is a list, not a text", fmt.Sprintf("write [%q]", t.Value))
			return nil
		}
		d.wrongType(n, what, "a list: [a, b], or lines that begin with -")
		return nil
	}
	var out []scalar
	for _, v := range s.Values {
		if t, ok := d.text1(v, "an entry of "+what); ok {
			out = append(out, t)
		}
	}
	return out
}

// text1 returns one text.
func (d *document) text1(n ast.Node, what string) (scalar, bool) {
	s, ok := n.(*ast.StringNode)
	if !ok {
		d.wrongType(n, what, "a text")
		return scalar{}, false
	}
	tk := s.GetToken()
	at := Pos{File: d.name, Line: tk.Position.Line, Column: tk.Position.Column}
	if tk.Type == token.DoubleQuoteType || tk.Type == token.SingleQuoteType {
		at.Column++
	}
	return scalar{text: s.Value, pos: at, plain: d.standsAt(at, s.Value)}, true
}

// standsAt reports whether the line has exactly this text at the position.
func (d *document) standsAt(at Pos, text string) bool {
	line := []rune(d.line(at.Line))
	return at.Column >= 1 && at.Column-1 <= len(line) && strings.HasPrefix(string(line[at.Column-1:]), text)
}

// wrongType complains about a node of another kind, and explains the kinds that surprise.
func (d *document) wrongType(n ast.Node, what, want string) {
	switch v := n.(type) {
	case nil:
		return
	case *ast.AliasNode:
		d.fail(n, "YAML takes a text that begins with * for an alias", fmt.Sprintf(`write it in quotes: "*%s"`, v.Value))
	case *ast.AnchorNode:
		d.fail(n, "anchors are not allowed", "write the text out where it is needed")
	case *ast.TagNode:
		d.fail(n, "tags are not allowed", "remove the word that begins with !")
	case *ast.MergeKeyNode:
		d.fail(n, "merge keys are not allowed", "write the members out")
	case *ast.NullNode:
		d.fail(n, what+" is empty", "write "+want+", or remove the key")
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		d.fail(n, fmt.Sprintf("%s is %s, and YAML reads %s as something else", what, want, n.GetToken().Value), fmt.Sprintf("write it in quotes: %q", n.GetToken().Value))
	case *ast.LiteralNode:
		d.fail(n, what+" stands in one line", "write it without | or >")
	default:
		d.fail(n, fmt.Sprintf("%s must be %s", what, want), "see docs/policy.md for the format")
	}
}

func (d *document) fail(n ast.Node, msg, fix string) { d.failAt(position(n), msg, fix) }

func (d *document) failAt(at Pos, msg, fix string) { d.add(d.located(at, msg, fix)) }

func (d *document) warn(n ast.Node, msg, fix string) {
	d.warnings = append(d.warnings, d.located(position(n), msg, fix))
}

func (d *document) located(at Pos, msg, fix string) *Error {
	return &Error{File: d.name, Line: at.Line, Column: at.Column, Msg: msg, Fix: fix, Source: d.line(at.Line)}
}

func (d *document) add(e *Error) {
	e.Source = d.line(e.Line)
	d.errs = append(d.errs, e)
}

func (d *document) line(n int) string {
	if n < 1 || n > len(d.lines) {
		return ""
	}
	return d.lines[n-1]
}

// position returns where a node begins: a mapping has the position of its first key, not of the colon behind it.
func position(n ast.Node) Pos {
	switch m := n.(type) {
	case *ast.MappingNode:
		if !m.IsFlowStyle && len(m.Values) > 0 {
			return position(m.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return position(m.Key)
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return Pos{Line: tk.Position.Line, Column: tk.Position.Column}
	}
	return Pos{Line: 1, Column: 1}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// nearest returns the candidate that is at most two edits away from the word, "" if there is none.
func nearest(word string, candidates []string) string {
	best, at := "", 3
	for _, c := range candidates {
		if n := distance(word, c); n < at && n < len(c)/2+1 {
			best, at = c, n
		}
	}
	return best
}

// distance is the number of insertions, deletions and replacements between two short words; long words are far.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
