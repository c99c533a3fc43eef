package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/weir-dev/weir/sandbox"
)

// protect keeps out of CMD's hands what judges it and what is written about it, where a writable share would hand it over:
// the policy is covered by itself, read-only. The event log and the learned policy are refused there, because CMD could
// put a symbolic link in their place and weir would write where it leads. Weir's own directories are hidden in any share.
func (p *plan) protect(shares []sandbox.Share) (protected []sandbox.Share, hidden []string, err error) {
	protected = shares
	own, err := ownDirs()
	if err != nil {
		return nil, nil, err
	}
	for _, s := range shares {
		for _, dir := range own {
			if rel, ok := inShare(s, dir); ok && rel != "." {
				hidden = append(hidden, filepath.Join(s.Inside, rel))
			}
		}
		if s.ReadOnly {
			continue
		}
		for flag, path := range map[string]string{"--events": p.events, "--learn": p.learn} {
			if strings.HasPrefix(path, "fd:") {
				continue
			}
			if _, ok := inShare(s, path); ok {
				return nil, nil, hint(fmt.Errorf("%s %s is in --share %s, where the program could change it", flag, path, s.Host), "%s /another/directory/%s", flag, filepath.Base(path))
			}
		}
		if rel, ok := inShare(s, p.policyFile); ok {
			cover, err := coverOf(s, rel)
			if err != nil {
				return nil, nil, hint(fmt.Errorf("-f %s: %w", p.policyFile, err), "--share %s:ro", s.Host)
			}
			protected = append(protected, cover...)
		}
	}
	return protected, hidden, nil
}

// inShare returns where in the share path lies, "." for the share itself. Directories are compared as they are without
// symbolic links; the last component of path is not followed, since whoever may write beside it may replace it.
func inShare(s sandbox.Share, path string) (rel string, ok bool) {
	if path == "" {
		return "", false
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", false
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", false
	}
	host, err := filepath.EvalSymlinks(s.Host)
	if err != nil {
		return "", false
	}
	rel, err = filepath.Rel(host, filepath.Join(dir, filepath.Base(path)))
	return rel, err == nil && filepath.IsLocal(rel)
}

// coverOf makes the file at rel read-only inside. The directories that lead to it become mounts of their own, which cannot
// be renamed away with the file.
func coverOf(s sandbox.Share, rel string) ([]sandbox.Share, error) {
	if fi, err := os.Lstat(filepath.Join(s.Host, rel)); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file, but in --share %s, where the program could change it", s.Host)
	}
	at := func(rel string) sandbox.Share {
		return sandbox.Share{Host: filepath.Join(s.Host, rel), Inside: filepath.Join(s.Inside, rel)}
	}
	file := at(rel)
	file.ReadOnly = true
	cover := []sandbox.Share{file}
	for dir := filepath.Dir(rel); rel != "." && dir != "."; dir = filepath.Dir(dir) {
		cover = append(cover, at(dir))
	}
	return cover, nil
}
