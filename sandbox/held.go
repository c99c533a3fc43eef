//go:build linux

package sandbox

import (
	"os"
	"slices"
)

// What [Sandbox.Held] names. The first three are always there: a sandbox without them is not started.
const (
	HeldNamespaces      = "namespaces"            // user, mount, pid, network, ipc, uts, cgroup
	HeldCapabilities    = "capabilities"          // none, and no_new_privs
	HeldSeccomp         = "seccomp"               // the filters of syscalls.go and arguments.go
	HeldProcessLimit    = "process-limit"         // a fork bomb ends at maxProcesses
	HeldLandlockFiles   = "landlock-files"        // writing only where it is meant; descriptors are no more than they are
	HeldLandlockDevices = "landlock-devices"      // requests to devices only in /dev
	HeldLandlockScopes  = "landlock-scopes"       // no signal out of the sandbox
	HeldLandlockSockets = "landlock-unix-sockets" // no UNIX socket of the host, whenever it appears
)

// Held lists the walls around CMD that this kernel could give, by the Held constants. What a newer kernel would give and
// this one does not is missing: [Missing] tells the difference.
func (s *Sandbox) Held() []string { return slices.Clone(s.held) }

// Missing are the walls that are not in held, those that this version knows.
func Missing(held []string) (missing []string) {
	for _, h := range []string{HeldNamespaces, HeldCapabilities, HeldSeccomp, HeldProcessLimit, HeldLandlockFiles, HeldLandlockDevices,
		HeldLandlockScopes, HeldLandlockSockets} {
		if !slices.Contains(held, h) {
			missing = append(missing, h)
		}
	}
	return missing
}

// engineHeld is what startEngineCommand is going to hold.
func engineHeld() []string {
	walls := []string{HeldNamespaces, HeldSeccomp}
	if limitsProcesses(kernelVersion(), os.Geteuid()) {
		walls = append(walls, HeldProcessLimit)
	}
	if landlockABI() >= abiScopes {
		walls = append(walls, HeldLandlockScopes)
	}
	return walls
}

// held is what startCommand is going to hold: where it fails to, CMD does not start.
func held() []string {
	walls := []string{HeldNamespaces, HeldCapabilities, HeldSeccomp}
	if limitsProcesses(kernelVersion(), os.Geteuid()) {
		walls = append(walls, HeldProcessLimit)
	}
	return append(walls, landlockHeld(landlockABI())...)
}
