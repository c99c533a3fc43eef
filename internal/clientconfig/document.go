package clientconfig

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tailscale/hujson"
)

// maxFile bounds a configuration file in octets.
const maxFile = 32 << 20

// document is a parsed file with the edits that are to be made to it.
type document struct {
	path  string
	src   []byte // without the byte order mark
	bom   []byte
	root  hujson.Value
	edits []edit
}

// edit replaces src[from:to] by text.
type edit struct {
	from, to int
	text     string
}

// entry is one server in a document.
type entry struct {
	name    string
	section string // key path for people: "mcpServers", "projects./x.mcpServers"
	value   *hujson.Value
}

func parse(path string, src []byte) (*document, error) {
	if len(src) > maxFile {
		return nil, fmt.Errorf("%s: the file has %d octets, at most %d are read", path, len(src), maxFile)
	}
	d := &document{path: path, src: src}
	if bom := []byte("\xef\xbb\xbf"); bytes.HasPrefix(src, bom) {
		d.bom, d.src = bom, src[len(bom):]
	}
	root, err := hujson.Parse(d.src)
	if err != nil {
		return nil, d.parseError(err)
	}
	if _, ok := root.Value.(*hujson.Object); !ok {
		return nil, d.errorAt(root.StartOffset, "the file is not a JSON object")
	}
	d.root = root
	return d, nil
}

// parseError turns a parser's error into file:line:column: what.
func (d *document) parseError(err error) error {
	var line, column int
	if n, _ := fmt.Sscanf(err.Error(), "hujson: line %d, column %d:", &line, &column); n != 2 {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	reason := err
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		reason = inner
	}
	return fmt.Errorf("%s:%d:%d: %w", d.path, line, column, reason)
}

func (d *document) errorAt(offset int, text string) error {
	before := d.src[:offset]
	line := bytes.Count(before, []byte("\n")) + 1
	column := offset - (bytes.LastIndexByte(before, '\n') + 1) + 1
	return fmt.Errorf("%s:%d:%d: %s", d.path, line, column, text)
}

// entries returns the servers in the client's sections.
func (d *document) entries(c Client) []entry {
	var found []entry
	for _, section := range c.sections {
		found = append(found, collect(&d.root, section, nil)...)
	}
	return found
}

func collect(v *hujson.Value, path, walked []string) []entry {
	object, ok := v.Value.(*hujson.Object)
	if !ok {
		return nil
	}
	var found []entry
	for i := range object.Members {
		name, value := memberName(object.Members[i]), &object.Members[i].Value
		switch {
		case len(path) == 0:
			found = append(found, entry{name: name, section: strings.Join(walked, "."), value: value})
		case path[0] == "*" || path[0] == name:
			found = append(found, collect(value, path[1:], append(slices.Clone(walked), name))...)
		}
	}
	return found
}

func memberName(m hujson.ObjectMember) string {
	if name, ok := m.Name.Value.(hujson.Literal); ok {
		return name.String()
	}
	return ""
}

// member returns the member of that name. Two of the same name are an error, because programs differ in which they take.
func (d *document) member(object *hujson.Object, name string) (*hujson.ObjectMember, error) {
	var found *hujson.ObjectMember
	for i := range object.Members {
		if memberName(object.Members[i]) != name {
			continue
		}
		if found != nil {
			return nil, d.errorAt(object.Members[i].Name.StartOffset, fmt.Sprintf("the key %q is here twice", name))
		}
		found = &object.Members[i]
	}
	return found, nil
}

// replace notes an edit.
func (d *document) replace(from, to int, text string) {
	d.edits = append(d.edits, edit{from: from, to: to, text: text})
}

// apply returns the file with all edits made.
func (d *document) apply() []byte {
	slices.SortStableFunc(d.edits, func(a, b edit) int { return a.from - b.from })
	out := slices.Clone(d.bom)
	at := 0
	for _, e := range d.edits {
		out = append(append(out, d.src[at:e.from]...), e.text...)
		at = e.to
	}
	return append(out, d.src[at:]...)
}

// stringOf returns the value of a JSON string.
func stringOf(v hujson.Value) (string, bool) {
	l, ok := v.Value.(hujson.Literal)
	if !ok || l.Kind() != '"' {
		return "", false
	}
	return l.String(), true
}

// stringsOf returns the values of an array of JSON strings.
func stringsOf(v hujson.Value) ([]string, bool) {
	array, ok := v.Value.(*hujson.Array)
	if !ok {
		return nil, false
	}
	list := make([]string, 0, len(array.Elements))
	for _, e := range array.Elements {
		s, ok := stringOf(e)
		if !ok {
			return nil, false
		}
		list = append(list, s)
	}
	return list, true
}

// indentOf returns the line break and indentation before a value that begins a line, else empty.
func (d *document) indentOf(v hujson.Value) string {
	i := bytes.LastIndexByte(v.BeforeExtra, '\n')
	if i < 0 || len(bytes.Trim(v.BeforeExtra[i+1:], " \t")) > 0 {
		return ""
	}
	line := "\n"
	if i > 0 && v.BeforeExtra[i-1] == '\r' {
		line = "\r\n"
	}
	return line + string(v.BeforeExtra[i+1:])
}
