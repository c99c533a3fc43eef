package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/weir-dev/weir/flow/policy"
)

// askedFile keeps what the user answered "always" to, as a policy file that can be read and edited.
type askedFile struct {
	path string

	mu    sync.Mutex
	names []string // of apps, in the order of the file
	rules map[string][]string
}

// loadAsked reads the file; it need not exist yet.
func loadAsked(path string) (*askedFile, *policy.File, error) {
	a := &askedFile{path: path, rules: map[string][]string{}}
	file, err := policy.LoadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return a, nil, nil
	}
	if err != nil {
		return nil, nil, hint(fmt.Errorf("what was answered earlier: %w", err), "mend or remove %s", path)
	}
	for _, app := range file.Apps {
		for _, r := range app.Allow {
			a.add(app.Name, r.String())
		}
	}
	return a, file, nil
}

func (a *askedFile) add(app, rule string) {
	if _, known := a.rules[app]; !known {
		a.names = append(a.names, app)
	}
	if !slices.Contains(a.rules[app], rule) {
		a.rules[app] = append(a.rules[app], rule)
	}
}

// remember writes one more rule. Only a plain name of an app goes into a file: what the edge calls it is its own affair.
func (a *askedFile) remember(app, rule string) error {
	if !plainName(app) {
		return fmt.Errorf("remember a rule: %q is not a name that a file can have", app)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.add(app, rule)
	if err := os.MkdirAll(filepath.Dir(a.path), 0o700); err != nil {
		return fmt.Errorf("remember a rule: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(a.path), ".asked-*")
	if err != nil {
		return fmt.Errorf("remember a rule: %w", err)
	}
	_, err = f.WriteString(a.text())
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), a.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("remember a rule: %w", err)
	}
	return nil
}

// text is the file.
func (a *askedFile) text() string {
	var b strings.Builder
	b.WriteString("# What \"weir connect --ask\" was answered \"always\" to.\nversion: 1\nmode: enforce\napps:\n")
	for _, app := range a.names {
		fmt.Fprintf(&b, "  %q:\n    allow:\n", app)
		for _, r := range a.rules[app] {
			fmt.Fprintf(&b, "      - %q\n", r)
		}
	}
	return b.String()
}

// plainName reports whether an app's name is one that people give.
func plainName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsRune("-_.", rune(s[0])) && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == ""
}
