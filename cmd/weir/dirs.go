package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// stateDir is where events and first-seen names are kept.
func stateDir() (string, error) {
	dir, err := xdgDir("XDG_STATE_HOME", ".local/state")
	return filepath.Join(dir, "weir"), err
}

// xdgDir resolves a directory of the XDG base directory specification; relative values are ignored as it demands.
func xdgDir(variable, below string) (string, error) {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", hint(fmt.Errorf("find home: %w", err), "HOME=/path/to/home weir run ...")
	}
	return filepath.Join(home, below), nil
}

// credentialsDir is where this user's credentials for an edge are. Of the edge's address only what may stand in the name of
// a directory everywhere stays as it is.
func credentialsDir(edge edgeAddress) (string, error) {
	base, err := dataDir()
	if err != nil {
		return "", err
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, edge.host)
	return filepath.Join(base, "tunnel", name+"_"+edge.port), nil
}

// dataDir is where weir keeps what is the user's own.
func dataDir() (string, error) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		if dir, err := os.UserConfigDir(); err == nil && !filepath.IsAbs(os.Getenv("XDG_DATA_HOME")) {
			return filepath.Join(dir, "weir"), nil
		}
	}
	dir, err := xdgDir("XDG_DATA_HOME", ".local/share")
	return filepath.Join(dir, "weir"), err
}
