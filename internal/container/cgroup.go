//go:build linux

package container

import (
	"strings"
)

// claim is an engine and the id that it gave a container.
type claim struct{ runtime, id string }

// parseCgroup finds the container in a process's cgroup file (cgroups(7), "/proc/[pid]/cgroup"). ok is false if no line names
// one, or if two lines name different ones.
//
// A container may make groups below its own and give them any name, so of each path the outermost part that an engine could
// have made counts.
func parseCgroup(file []byte) (c claim, ok bool) {
	for line := range strings.Lines(string(file)) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		_, path, found := strings.Cut(rest, ":")
		if !found {
			continue
		}
		if got, is := parseCgroupPath(path); is {
			if ok && got != c {
				return claim{}, false
			}
			c, ok = got, true
		}
	}
	return c, ok
}

// scopes are the engines by what they put before the id in the name of a group.
var scopes = []struct{ prefix, runtime string }{
	{"libpod-", RuntimePodman},
	{"docker-", RuntimeDocker},
	{"nerdctl-", RuntimeContainerd},
	{"cri-containerd-", RuntimeKubernetes},
	{"crio-", RuntimeKubernetes},
}

func parseCgroupPath(path string) (claim, bool) {
	pod := false
	before := ""
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		pod = pod || part == "kubepods" || strings.HasPrefix(part, "kubepods.") || strings.HasPrefix(part, "kubepods-")
		name := strings.TrimSuffix(part, ".scope")
		if i := strings.LastIndexByte(name, ':'); i >= 0 { // SLICE:ENGINE:ID, as runc is told it where systemd is not asked
			name = strings.ReplaceAll(name[strings.IndexByte(name, ':')+1:], ":", "-")
		}
		for _, s := range scopes {
			if id, is := strings.CutPrefix(name, s.prefix); is && containerID(id) {
				if pod {
					return claim{RuntimeKubernetes, id}, true
				}
				return claim{s.runtime, id}, true
			}
		}
		if containerID(name) {
			switch {
			case pod:
				return claim{RuntimeKubernetes, name}, true
			case before == "docker":
				return claim{RuntimeDocker, name}, true
			case before != "":
				return claim{RuntimeContainerd, name}, true
			}
		}
		before = part
	}
	return claim{}, false
}

// containerID reports whether s is an id as the engines make them: 64 hexadecimal digits, lower case. So it can be a part
// of a path.
func containerID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
