package clientconfig

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// fileServers are servers whose job is files: which of their arguments are paths that they must see. The rest of the
// user's files stays out of the sandbox.
var fileServers = []struct {
	packages []string
	flags    []string // flags whose value is a path
	rest     bool     // every argument after the package that is a path
	parent   bool     // the path is a database, which has its journal beside it
}{
	{packages: []string{"@modelcontextprotocol/server-filesystem", "mcp-server-filesystem"}, rest: true},
	{packages: []string{"mcp-server-git", "@modelcontextprotocol/server-git"}, flags: []string{"--repository", "-r"}},
	{packages: []string{"mcp-server-sqlite", "@modelcontextprotocol/server-sqlite"}, flags: []string{"--db-path"}, parent: true},
}

// interpreters run a script that is named by its path.
var interpreters = []string{"node", "bun", "deno", "python", "python3", "ruby", "php", "tsx", "ts-node", "bash", "sh"}

// projectMarks are files that stand at the root of a project.
var projectMarks = []string{"package.json", "pyproject.toml", "go.mod", "Cargo.toml", ".git", "requirements.txt"}

// sharesOf returns the values of --share that the command needs, and notes about paths that cannot be shared.
func sharesOf(argv []string, home string) (shares, notes []string) {
	add := func(path, suffix string) {
		path = filepath.Clean(path)
		switch {
		case strings.Contains(path, ":"):
			notes = append(notes, fmt.Sprintf("%s is not shared, because its name has a colon", path))
		case path == "/" || home != "" && (path == filepath.Clean(home) || strings.HasPrefix(filepath.Clean(home), path+"/")):
			notes = append(notes, fmt.Sprintf("%s is not shared, because it holds your whole home: name what the server needs with --share", path))
		case !slices.Contains(shares, path) && !slices.Contains(shares, path+":ro"):
			shares = append(shares, path+suffix)
		}
	}
	for _, path := range serverPaths(argv) {
		add(path, "")
	}
	if dir := uvProject(argv); dir != "" {
		add(dir, "")
	} else if script := scriptOf(argv); script != "" && below(home, script) {
		if root := projectRoot(script, home); root != "" {
			add(root, ":ro")
		} else {
			add(script, ":ro")
		}
	}
	return shares, notes
}

// serverPaths returns the paths among the arguments of a file server.
func serverPaths(argv []string) (paths []string) {
	for _, server := range fileServers {
		at := slices.IndexFunc(argv, func(arg string) bool { return slices.Contains(server.packages, packageName(arg)) })
		if at < 0 {
			continue
		}
		args := argv[at+1:]
		for i, arg := range args {
			flag, value, joined := strings.Cut(arg, "=")
			switch {
			case slices.Contains(server.flags, flag) && joined:
			case i > 0 && slices.Contains(server.flags, args[i-1]), server.rest && !strings.HasPrefix(arg, "-"):
				value = arg
			default:
				continue
			}
			if !exists(value) && !inWorkspace(value) {
				continue
			}
			if server.parent && !isDir(value) {
				value = filepath.Dir(value)
			}
			paths = append(paths, value)
		}
	}
	return paths
}

// inWorkspace reports whether path begins with the variable that clients replace by the folder that is open, in --share as
// in the server's own arguments.
func inWorkspace(path string) bool {
	const variable = "${workspaceFolder}"
	return path == variable || strings.HasPrefix(path, variable+"/")
}

// packageName returns the name of a package without its version, or the base name of a program.
func packageName(arg string) string {
	if filepath.IsAbs(arg) {
		return filepath.Base(arg)
	}
	if i := strings.IndexByte(arg, '@'); i > 0 {
		return arg[:i]
	}
	if i := strings.LastIndexByte(arg, '@'); i > 0 {
		return arg[:i]
	}
	if i := strings.Index(arg, "=="); i > 0 {
		return arg[:i]
	}
	return arg
}

// uvProject returns the directory that uv works in: it keeps the environment there and must be able to write.
func uvProject(argv []string) string {
	if filepath.Base(argv[0]) != "uv" {
		return ""
	}
	for i, arg := range argv[1:] {
		flag, value, joined := strings.Cut(arg, "=")
		if flag != "--directory" && flag != "--project" {
			continue
		}
		if !joined && i+2 < len(argv) {
			value = argv[i+2]
		}
		if isDir(value) {
			return value
		}
	}
	return ""
}

// scriptOf returns the program or script that the user keeps on this machine.
func scriptOf(argv []string) string {
	if exists(argv[0]) && !interpreter(argv[0]) {
		return argv[0]
	}
	if !interpreter(argv[0]) {
		return ""
	}
	for _, arg := range argv[1:] {
		if exists(arg) {
			return arg
		}
	}
	return ""
}

func interpreter(command string) bool { return slices.Contains(interpreters, filepath.Base(command)) }

// projectRoot returns the nearest directory above path that looks like a project, but not the home itself.
func projectRoot(path, home string) string {
	for dir := filepath.Dir(path); below(home, dir); dir = filepath.Dir(dir) {
		for _, mark := range projectMarks {
			if exists(filepath.Join(dir, mark)) {
				return dir
			}
		}
	}
	return ""
}

// below reports whether path is below dir.
func below(dir, path string) bool {
	return dir != "" && strings.HasPrefix(filepath.Clean(path), filepath.Clean(dir)+"/")
}

// exists reports whether path is absolute and there.
func exists(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	_, err := os.Stat(path)
	return err == nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return filepath.IsAbs(path) && err == nil && info.IsDir()
}
