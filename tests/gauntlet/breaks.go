//go:build linux

package gauntlet

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Break takes one stone out of weir's source. The rows it names must then be red; were they green, they would prove nothing.
type Break struct {
	Group string
	// File is the source, from the module's root. Old occurs in it once and becomes New.
	File, Old, New string
	// Rows are the IDs that have to turn red.
	Rows []string
}

// Breaks returns at least one for each group.
func Breaks() []Break {
	return append(nameBreaks(), []Break{
		{"escape", "sandbox/syscalls.go", "func filterSyscalls() error { return", "func filterSyscalls() error { return nil; return",
			[]string{"escape/io-uring", "escape/userfaultfd", "escape/keyring", "escape/vsock", "escape/netfilter", "escape/ia32", "escape/tiocsti"}},
		{"escape", "sandbox/sandbox.go", "syscall.CLONE_NEWIPC |", "", []string{"escape/shared-memory"}},
		{"escape", "sandbox/hide.go", `"cgroups", "cpuinfo",`, `"keys", "cgroups", "cpuinfo",`, []string{"escape/keys-listed"}},
		{"processes", "cmd/weir/launch.go", "if err := keepFiles(); err != nil {", "if err := error(nil); err != nil {", nil}, // the first wall of two
		{"processes", "sandbox/init.go", "if err != nil || fd <= 2 {", "if err != nil || fd <= 200 {",
			[]string{"processes/inherited-socket", "processes/inherited-log"}},
		{"processes", "cmd/weir/env.go", "case passes(name) && !carriesSecret(name, value):", "case true:",
			[]string{"processes/secret-variable", "processes/secret-in-url", "processes/secret-in-family", "processes/loader-variables"}},
		{"processes", "sandbox/spec.go", "if err := checkStream(f); err != nil {", "if err := checkStream(f); false {\n\t\t\t_ = err",
			[]string{"processes/stdin-directory", "processes/stdin-socket"}},
		{"files", "sandbox/collect.go", "\t\t\tflags = flagsReadOnly", "\t\t\tflags = flagsWritable", []string{"files/read-only-share", "files/reopened-descriptor"}},
		{"files", "sandbox/root.go", "r.hideAll(sockets, unix.S_IFSOCK)", "r.hideAll(sockets, unix.S_IFCHR)", []string{"files/socket-in-share", "files/socket-in-home", "files/socket-fs-host"}},
		{"files", "cmd/weir/tools.go", "files[path] = filter(b)", "files[path] = append(filter(nil), b...)", []string{"files/npmrc"}},
		{"files", "cmd/weir/protect.go", "hidden = append(hidden, filepath.Join(s.Inside, rel))", "_ = rel", []string{"files/own-directories"}},
		{"files", "sandbox/mount.go", "unix.O_PATH | unix.O_NOFOLLOW |", "unix.O_PATH |", []string{"files/planted-mount-point"}},
		{"reach", "flow/policy/decide.go", "j.guarded, j.private = j.class.Guarded(),", "j.guarded, j.private = false,",
			[]string{"reach/host-loopback", "reach/host-address", "reach/metadata", "reach/link-local"}},
		{"reach", "flow/policy/decide.go", "j.class == guard.Private\n\t} else", "false\n\t} else", []string{"reach/private"}},
		{"reach", "flow/policy/witness.go", "return j.refuse(ReasonDefault, builtinDefault)", "return Decision{Verdict: Allow, Settled: true}",
			[]string{"reach/nothing-listed", "reach/hidden-allow", "reach/other-apps-rules", "reach/relay-inside", "names/unlisted", "names/unlisted-http", "dns/server-known"}},
		{"reach", "cmd/weir/launch.go", `net.Listen("tcp4", net.JoinHostPort("127.0.0.1",`, `net.Listen("tcp4", net.JoinHostPort("0.0.0.0",`, []string{"reach/published-uplink"}},
		{"packets", "netstack/filter.go", "if !group && eth.DestinationAddress() != f.gateway {", "if !group && f == nil {", []string{"packets/past-the-gateway"}},
		{"packets", "netstack/filter4.go", "case src != f.addr4:", "case false:", []string{"packets/spoofed-source", "packets/second-address"}},
		{"door", "flow/policy/decide.go", "j.guarded, j.private = j.class.Guarded(),", "j.guarded, j.private = false,", []string{"door/listener"}},
		{"exhaustion", "resolver/server.go", "MaxConns        = 64 ", "MaxConns        = 6400 ", []string{"exhaustion/idle-questioners"}},
		{"exhaustion", "sandbox/limits.go", `"nr_inodes=16384"`, `"nr_inodes=1638400"`, []string{"exhaustion/files"}},
		{"logs", "flow/event/encode.go", "case hidden(r):", "case false:", []string{"logs/line-in-arguments"}},
		{"logs", "flow/event/encode.go", "case r == '\"' || r == '\\\\':", "case false:", []string{"logs/field-in-host", "logs/quote-in-sni"}},
	}...)
}

// BuildBroken compiles a weir without all of these stones to path; root is the module's directory.
func BuildBroken(root, path string, stones []Break) error {
	if err := buildEdited(root, path, edits(stones)); err != nil {
		return fmt.Errorf("break: %w", err)
	}
	return nil
}

func edits(stones []Break) (list []edit) {
	for _, b := range stones {
		list = append(list, edit{b.File, b.Old, b.New})
	}
	return list
}

// edit replaces in file, whose name counts from the module's root, the one place that says before.
type edit struct{ file, before, after string }

// buildEdited compiles weir to path from a source that was changed. The files themselves are not touched.
func buildEdited(root, path string, edits []edit) error {
	overlay := map[string]string{}
	for i, e := range edits {
		source := filepath.Join(root, e.file)
		copied := overlay[source]
		if copied == "" {
			copied = fmt.Sprintf("%s.%d.go", path, i)
			if err := copyFile(source, copied); err != nil {
				return err
			}
			overlay[source] = copied
		}
		text, err := os.ReadFile(copied)
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), e.before); n != 1 {
			return fmt.Errorf("%q is %d times in %s", e.before, n, e.file)
		}
		if err := os.WriteFile(copied, []byte(strings.Replace(string(text), e.before, e.after, 1)), 0o644); err != nil {
			return err
		}
	}
	text, err := json.Marshal(map[string]map[string]string{"Replace": overlay})
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".json", text, 0o644); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-ldflags=-s -w", "-overlay", path+".json", "-o", path, "./cmd/weir")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build edited weir: %w: %s", err, out)
	}
	return nil
}

// copyFile copies what may be executed next: no process that is forked meanwhile may hold it open for writing.
func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(to, b, 0o644)
}

// moduleRoot is where the sources are: the command and its tests run below it.
func moduleRoot() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find sources of weir: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}
