package clientconfig

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Client is an MCP client whose configuration is known.
type Client struct {
	// Name is what people call it on the command line.
	Name string

	// sections are the key paths of the objects that hold servers; "*" stands for any key.
	sections [][]string

	// paths returns where the user's own files may be, project the usual place of a project's.
	paths   func(Host) []string
	project string
}

// Host is what decides where the files of this user are.
type Host struct {
	// Home is the home directory, GOOS the operating system as in runtime.GOOS, Getenv looks a variable up.
	Home, GOOS string
	Getenv     func(string) string
}

// Clients returns the clients that are known, in alphabetical order.
func Clients() []Client {
	return []Client{
		{Name: "claude-code", sections: [][]string{{"mcpServers"}, {"projects", "*", "mcpServers"}}, paths: claudeCode, project: ".mcp.json"},
		{Name: "claude-desktop", sections: [][]string{{"mcpServers"}}, paths: claudeDesktop},
		{Name: "cursor", sections: [][]string{{"mcpServers"}}, paths: cursor, project: ".cursor/mcp.json"},
		{Name: "vscode", sections: [][]string{{"servers"}, {"mcp", "servers"}, {"mcp.servers"}, {"mcpServers"}}, paths: vscode, project: ".vscode/mcp.json"},
	}
}

// Find returns the client of that name.
func Find(name string) (Client, error) {
	all := Clients()
	i := slices.IndexFunc(all, func(c Client) bool { return c.Name == name })
	if i < 0 {
		return Client{}, fmt.Errorf("client %q is not known; known are %s", name, strings.Join(Names(), ", "))
	}
	return all[i], nil
}

// Names returns the names of the clients that are known.
func Names() []string {
	var names []string
	for _, c := range Clients() {
		names = append(names, c.Name)
	}
	return names
}

// Paths returns where the client's own files of this user may be; most hosts have only some of them.
func (c Client) Paths(h Host) []string { return c.paths(h) }

// ProjectPath returns where a project keeps a file for this client, below the project's directory; empty when it has none.
func (c Client) ProjectPath() string { return filepath.FromSlash(c.project) }

func claudeDesktop(h Host) []string {
	const file = "claude_desktop_config.json"
	if h.GOOS == "darwin" {
		return []string{filepath.Join(h.Home, "Library", "Application Support", "Claude", file)}
	}
	return []string{filepath.Join(h.configHome(), "Claude", file), filepath.Join(h.configHome(), "claude", file)}
}

func claudeCode(h Host) []string {
	if dir := h.Getenv("CLAUDE_CONFIG_DIR"); dir != "" {
		return []string{filepath.Join(dir, ".claude.json")}
	}
	return []string{filepath.Join(h.Home, ".claude.json")}
}

func cursor(h Host) []string { return []string{filepath.Join(h.Home, ".cursor", "mcp.json")} }

func vscode(h Host) []string {
	base := h.configHome()
	if h.GOOS == "darwin" {
		base = filepath.Join(h.Home, "Library", "Application Support")
	}
	var paths []string
	for _, edition := range []string{"Code", "Code - Insiders", "VSCodium"} {
		for _, file := range []string{"mcp.json", "settings.json"} {
			paths = append(paths, filepath.Join(base, edition, "User", file))
		}
	}
	return paths
}

func (h Host) configHome() string {
	if dir := h.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(h.Home, ".config")
}
