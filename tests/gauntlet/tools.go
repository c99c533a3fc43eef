//go:build linux

package gauntlet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// Tool is a way of running a program that is not trusted.
type Tool struct {
	Name string
	// Judges says that the tool is weir: it has rules and a log.
	Judges bool

	path string // of weir
	door string // of weir: the one that its sandboxes have

	// command runs the attack, whose first word is a path of the host, under the tool.
	command func(r *Runner, s *Stage, rules, attack []string) *exec.Cmd
}

const eventsName = "events.jsonl"

// inside is where sandboxes with a file system of their own show the attacker.
const inside = "/run/attack"

// Doors are those of weir, the default one first. Every row runs through each of them.
func Doors() []string { return []string{"netstack", "tproxy", "both"} }

// Weir is the weir binary at this path, its sandboxes with this door.
func Weir(path, door string) Tool {
	name := "weir"
	if door != Doors()[0] {
		name += " " + door
	}
	return Tool{Name: name, Judges: true, path: path, door: door, command: func(r *Runner, s *Stage, rules, attack []string) *exec.Cmd {
		args := []string{"run", "-q", "--name", "gauntlet", "--events", filepath.Join(s.Dir, eventsName), "--share", attack[0] + ":" + inside + ":ro"}
		if s.Door != Doors()[0] {
			args = append(args, "--door", s.Door)
		}
		args = slices.Concat(args, rules, s.Flags, []string{"--", inside}, attack[1:])
		return exec.Command(path, args...)
	}}
}

// ToolNamed returns weir through one of its doors (weir, "weir tproxy", "weir both"), none, or a peer, each started as its own manual shows for "run this program, let it use the
// network".
func ToolNamed(name, weir string) (Tool, error) {
	peers := map[string]func(self string) []string{
		"none":  func(string) []string { return nil },
		"pasta": func(string) []string { return []string{"pasta", "--config-net", "--"} },
		"bwrap": func(self string) []string {
			return []string{"bwrap", "--unshare-all", "--share-net", "--die-with-parent", "--new-session", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
				"--tmpfs", "/tmp", "--tmpfs", "/run", "--ro-bind", self, inside, "--"}
		},
		"unshare": func(string) []string {
			return []string{"unshare", "--map-current-user", "--mount", "--pid", "--fork", "--mount-proc", "--ipc", "--uts", "--kill-child", "--"}
		},
	}
	for _, door := range Doors() {
		if t := Weir(weir, door); t.Name == name {
			return t, nil
		}
	}
	prefix, ok := peers[name]
	if !ok {
		return Tool{}, fmt.Errorf("unknown tool %q: weir, weir tproxy, weir both, none, pasta, bwrap or unshare", name)
	}
	if words := prefix(""); len(words) > 0 {
		if _, err := exec.LookPath(words[0]); err != nil {
			return Tool{}, err
		}
	}
	return Tool{Name: name, command: func(r *Runner, s *Stage, rules, attack []string) *exec.Cmd {
		words := prefix(attack[0])
		if name == "bwrap" {
			attack = append([]string{inside}, attack[1:]...)
		}
		words = append(words, attack...)
		return exec.Command(words[0], words[1:]...)
	}}, nil
}

func plainCommand(_ *Runner, _ *Stage, _, attack []string) *exec.Cmd {
	return exec.Command(attack[0], attack[1:]...)
}

// Build compiles weir into dir.
func Build(dir string) error {
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "weir"), "github.com/weir-dev/weir/cmd/weir")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build weir: %w: %s", err, out)
	}
	return nil
}
