//go:build linux && !client

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/weir-dev/weir/sandbox"
)

// protect keeps out of CMD's hands what judges it and what is written about it, where a writable share would hand it over:
// the policy is covered by itself, read-only. The event log and the learned policy are refused there, because CMD could
// put a symbolic link in their place and weir would write where it leads; so is any of them, wherever it is, that is
// reached by a symbolic link there, and another share, which would show what CMD of an earlier run has chosen. Weir's own directories are hidden in any share, and made where they are not there yet:
// what does not exist cannot be covered, and CMD would make it.
func (p *plan) protect(shares []sandbox.Share) (protected []sandbox.Share, hidden []string, err error) {
	own, err := ownDirs()
	if err != nil {
		return nil, nil, err
	}
	var pins, covers []sandbox.Share
	for _, s := range shares {
		for _, dir := range own {
			rel, err := p.ownIn(s, dir)
			if err != nil {
				return nil, nil, err
			}
			if rel != "" {
				hidden = append(hidden, filepath.Join(s.Inside, rel))
				pins = append(pins, pinsOf(s, rel)...)
			}
		}
		if s.ReadOnly {
			continue
		}
		for _, other := range shares {
			if links, _ := within(s, other.Host); len(links) > 0 {
				return nil, nil, hint(fmt.Errorf("--share %s: is reached by the symbolic link %s in --share %s, which the program could have made", other.Host, links[0], s.Host), "check where the link leads, and share that directory by its own name")
			}
		}
		for flag, path := range map[string]string{"--events": p.events, "--learn": p.learn} {
			if strings.HasPrefix(path, "fd:") {
				continue
			}
			if links, rel := within(s, path); len(links) > 0 || rel != "" {
				return nil, nil, hint(fmt.Errorf("%s %s is in --share %s, or leads through it, where the program could change it", flag, path, s.Host), "%s /another/directory/%s", flag, filepath.Base(path))
			}
		}
		links, rel := within(s, p.policyFile)
		if len(links) > 0 {
			return nil, nil, hint(fmt.Errorf("-f %s: leads by the symbolic link %s in --share %s, which the program could change", p.policyFile, links[0], s.Host), "--share %s:ro", s.Host)
		}
		if rel != "" {
			cover, err := coverOf(s, rel)
			if err != nil {
				return nil, nil, hint(fmt.Errorf("-f %s: %w", p.policyFile, err), "--share %s:ro", s.Host)
			}
			covers, pins = append(covers, cover), append(pins, pinsOf(s, rel)...)
		}
	}
	// Of what is mounted at one place the last is seen: a share that was asked for read-only stays so.
	return slices.Concat(pins, shares, covers), hidden, nil
}

// ownIn returns where in the share one of weir's own directories is, "" when it is not there, or is the share itself.
func (p *plan) ownIn(s sandbox.Share, dir string) (rel string, err error) {
	links, rel := within(s, dir)
	if len(links) > 0 && !s.ReadOnly {
		return "", hint(fmt.Errorf("weir's own directory %s is reached by the symbolic link %s in --share %s, which the program could change", dir, links[0], s.Host), "--share %s:ro", s.Host)
	}
	if rel == "" || rel == "." {
		return "", nil
	}
	return rel, p.makeOwn(dir)
}

// makeOwn makes one of weir's own directories, so that it can be hidden.
func (p *plan) makeOwn(dir string) error {
	if p.dryRun {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make weir's own directory, to hide it: %w", err)
	}
	return nil
}

// within returns where in the share path is, or will be: "." for the share itself, "" when it is elsewhere; and the
// symbolic links in the share that lead to it. Whoever may write to the share may turn these elsewhere.
func within(s sandbox.Share, path string) (links []string, rel string) {
	if path == "" {
		return nil, ""
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, ""
	}
	all, end := lookups(path)
	for _, link := range all {
		if _, ok := inShare(s, link); ok {
			links = append(links, link)
		}
	}
	rel, _ = inShare(s, end)
	return links, rel
}

// maxLinks is how many symbolic links the kernel follows on one way.
const maxLinks = 40

// lookups follows an absolute path as the kernel does: the symbolic links that it meets, each by the real path of its
// directory, and where it ends, whether there is something or not.
func lookups(path string) (links []string, end string) {
	at, rest := "/", strings.Split(path, "/")
	for len(rest) > 0 {
		entry := filepath.Join(at, rest[0])
		rest = rest[1:]
		to, err := os.Readlink(entry)
		if err != nil || len(links) == maxLinks {
			at = entry
			continue
		}
		links = append(links, entry)
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = slices.Concat(strings.Split(to, "/"), rest)
	}
	return links, at
}

// inShare returns where in the share a real path lies, "." for the share itself and "" with false for elsewhere.
func inShare(s sandbox.Share, path string) (rel string, ok bool) {
	host, err := filepath.EvalSymlinks(s.Host)
	if err != nil {
		return "", false
	}
	rel, err = filepath.Rel(host, path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", false
	}
	return rel, true
}

// coverOf makes the file at rel read-only inside.
func coverOf(s sandbox.Share, rel string) (sandbox.Share, error) {
	file := sandbox.Share{Host: filepath.Join(s.Host, rel), Inside: filepath.Join(s.Inside, rel), ReadOnly: true}
	if fi, err := os.Lstat(file.Host); err != nil || !fi.Mode().IsRegular() {
		return file, fmt.Errorf("not a regular file, but in --share %s, where the program could change it", s.Host)
	}
	return file, nil
}

// pinsOf makes the directories of a writable share that lead to rel mounts of their own, which cannot be renamed away with
// what is covered in them.
func pinsOf(s sandbox.Share, rel string) (pins []sandbox.Share) {
	for dir := filepath.Dir(rel); !s.ReadOnly && dir != "."; dir = filepath.Dir(dir) {
		pins = append(pins, sandbox.Share{Host: filepath.Join(s.Host, dir), Inside: filepath.Join(s.Inside, dir)})
	}
	return pins
}
