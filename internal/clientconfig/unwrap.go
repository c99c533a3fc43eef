package clientconfig

import (
	"slices"

	"github.com/tailscale/hujson"
)

// Unwrap returns the file as it was before weir. The content comes from the backups beside the file as long as the file is
// what wrapping has made of it; servers that are still wrapped then (the file was changed since, or only some are to be
// undone) are turned back one by one. Nothing is written.
func Unwrap(path string, src []byte, c Client, o Options) (*Change, error) {
	d, err := parse(path, src)
	if err != nil {
		return nil, err
	}
	before, err := d.wrapped(c, o)
	if err != nil {
		return nil, err
	}
	change := &Change{Path: path, Before: src, After: src}
	for range maxRestores {
		content, backup := backupOf(path, change.After)
		if backup == "" || !sameButFor(path, change.After, content, c, o) {
			break
		}
		change.After = content
		change.restored = append(change.restored, backup)
	}
	if d, err = parse(path, change.After); err != nil {
		return nil, err
	}
	for _, e := range d.entries(c) {
		if !o.wants(e.name) {
			continue
		}
		s, err := d.unwrap(e, o, slices.Contains(before, e.key()))
		if err != nil {
			return nil, err
		}
		change.Servers = append(change.Servers, s)
	}
	change.After = d.apply()
	return change, d.verify(change.After)
}

// maxRestores bounds how many times a file may have been wrapped one after the other.
const maxRestores = 64

// key tells servers of one file apart.
func (e entry) key() string { return e.section + "\x00" + e.name }

// wrapped returns the keys of the servers that start under weir.
func (d *document) wrapped(c Client, o Options) ([]string, error) {
	var keys []string
	for _, e := range d.entries(c) {
		p, action, _, err := d.program(e)
		if err != nil {
			return nil, err
		}
		if action == "" && underWeir(p.argv, o.Weir) {
			keys = append(keys, e.key())
		}
	}
	return keys, nil
}

// sameButFor reports whether putting content back undoes only servers that are to be undone.
func sameButFor(path string, now, content []byte, c Client, o Options) bool {
	if len(o.Servers) == 0 {
		_, err := parse(path, content)
		return err == nil
	}
	var keys [2][]string
	for i, src := range [][]byte{now, content} {
		d, err := parse(path, src)
		if err != nil {
			return false
		}
		all := o
		all.Servers = nil
		if keys[i], err = d.wrapped(c, all); err != nil {
			return false
		}
		for _, e := range d.entries(c) {
			if o.wants(e.name) {
				keys[i] = slices.DeleteFunc(keys[i], func(k string) bool { return k == e.key() })
			}
		}
	}
	return slices.Equal(keys[0], keys[1])
}

// unwrap turns one entry back; was says that it started under weir before any backup was used.
func (d *document) unwrap(e entry, o Options, was bool) (Server, error) {
	s := Server{Name: e.name, Section: e.section}
	p, action, why, err := d.program(e)
	if err != nil || action != "" {
		s.Action, s.Why = action, why
		return s, err
	}
	if !underWeir(p.argv, o.Weir) {
		if s.Action, s.Why = Skipped, "it does not start under weir"; was {
			s.Action, s.Why, s.Command = Unwrapped, "", p.argv
		}
		return s, nil
	}
	own := slices.Index(p.argv, "--") + 1
	if own == 0 || own == len(p.argv) {
		s.Action, s.Why = Skipped, `it has no command of its own after "--"`
		return s, nil
	}
	array := p.args.Value.Value.(*hujson.Array)
	command := array.Elements[own-1] // argv has the command before the elements
	d.replace(p.command.Value.StartOffset, p.command.Value.EndOffset, string(d.src[command.StartOffset:command.EndOffset]))
	end := command.EndOffset
	if own < len(array.Elements) {
		end = array.Elements[own].StartOffset
	} else if command.AfterExtra != nil { // a trailing comma, which cannot stay without an element
		end += len(command.AfterExtra) + 1
	}
	d.replace(array.Elements[0].StartOffset, end, "")
	s.Action, s.Command = Unwrapped, p.argv[own:]
	return s, nil
}
