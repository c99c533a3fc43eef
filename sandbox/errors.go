//go:build linux

package sandbox

import (
	"fmt"
)

// Steps of set-up, as found in [SetupError.Step].
const (
	StepSpec       = "check spec"
	StepNamespaces = "create namespaces"
	StepTap        = "create tap"
	StepVeth       = "create veth"
	StepLink       = "create link" // every kind of link that was allowed failed; Err joins the causes
	StepDoor       = "open tproxy door"
	StepAddress    = "configure network"
	StepMount      = "mount"
	StepProc       = "mount proc" // refused where the visible /proc is masked, as in most containers
	StepWrite      = "write file"
	StepListen     = "listen for host port"
	StepConfine    = "confine"
	StepMapIDs     = "map ids"    // profile engine: by newuidmap and newgidmap
	StepEngine     = "run engine" // profile engine: rootlesskit could not do its part
	StepInit       = "run init"   // init died or answered nonsense
)

// SetupError is a wall that could not be built. Nothing of the sandbox is left when Start or Release returns one.
type SetupError struct {
	Step string // one of the Step constants
	Path string // file, device or setting concerned, "" if none
	Err  error  // wraps the syscall.Errno where there was one
}

func (e *SetupError) Error() string {
	if e.Step == StepSpec && e.Path != "" { // what the caller asked for says more than that it was looked at
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	}
	if e.Path == "" {
		return fmt.Sprintf("%s: %v", e.Step, e.Err)
	}
	return fmt.Sprintf("%s %s: %v", e.Step, e.Path, e.Err)
}

// Unwrap returns the cause.
func (e *SetupError) Unwrap() error { return e.Err }

// ExecError is a CMD that could not be started; the walls were fine. Err wraps exec.ErrNotFound when there is no such
// program, and fs.ErrPermission or the syscall.Errno (ENOEXEC ...) when there is one that cannot run.
type ExecError struct {
	Name string
	Err  error
}

func (e *ExecError) Error() string { return fmt.Sprintf("exec %s: %v", e.Name, e.Err) }

// Unwrap returns the cause.
func (e *ExecError) Unwrap() error { return e.Err }
