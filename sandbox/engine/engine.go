//go:build linux

package engine

import (
	"io"
	"os"
	"runtime"

	"github.com/rootless-containers/rootlesskit/v3/pkg/child"
	"github.com/rootless-containers/rootlesskit/v3/pkg/copyup/tmpfssymlink"
	"github.com/rootless-containers/rootlesskit/v3/pkg/parent"
	"github.com/sirupsen/logrus"

	"github.com/weir-dev/weir/sandbox"
)

// selfExe is argv[0] of what rootlesskit executes for itself.
const selfExe = "/proc/self/exe"

// The environment variables by which rootlesskit's parts know each other.
const (
	pipeKey       = "WEIR_ENGINE_PIPE"
	activationKey = "WEIR_ENGINE_ACTIVATION"
	stateDirKey   = "WEIR_ENGINE_STATE"
	helperKey     = "WEIR_ENGINE_HELPER"
)

const exitFailed = 125 // nobody sees it: the launcher goes by the messages

// Is reports whether this process is rootlesskit's part of a sandbox: then main calls [Main] before anything else.
func Is() bool {
	if len(os.Args) != 2 || os.Args[0] != selfExe && os.Args[0] != sandbox.EngineName {
		return false
	}
	return os.Args[1] == sandbox.EngineName || os.Args[1] == sandbox.EngineCommandName
}

// Main is the life of that process. It never returns.
func Main() {
	switch {
	case os.Args[1] == sandbox.EngineCommandName:
		sandbox.EngineCommand()
		os.Exit(0)
	case os.Args[0] == sandbox.EngineName:
		end(runParent())
	default:
		end(runChild())
	}
}

func end(err error) {
	if err != nil {
		sandbox.EngineFailed(err)
		os.Exit(exitFailed)
	}
	os.Exit(0)
}

// runParent makes the inner namespaces and returns when all in them has ended.
func runParent() error {
	runtime.LockOSThread() // the child's PDEATHSIG follows the thread that forked it
	spec, _, err := start()
	if err != nil {
		return err
	}
	if err := sandbox.EngineShy(); err != nil {
		return err
	}
	return parent.Parent(parent.Opt{
		PipeFDEnvKey: pipeKey, ChildUseActivationEnvKey: activationKey,
		StateDir: sandbox.EngineStateDir, StateDirEnvKey: stateDirKey,
		NetworkDriver: &parentDriver{spec},
		CreatePIDNS:   true, CreateCgroupNS: true, CreateUTSNS: true, CreateIPCNS: true,
		SubidSource: parent.SubidSourceStatic, // the files that the walls have
	})
}

// runChild is PID 1 of the inner namespaces.
func runChild() error {
	_, sharedTerminal, err := start()
	if err != nil {
		return err
	}
	return child.Child(child.Opt{
		PipeFDEnvKey: pipeKey, ChildUseActivationEnvKey: activationKey, RunActivationHelperEnvKey: helperKey, StateDirEnvKey: stateDirKey,
		TargetCmd:     []string{selfExe, sandbox.EngineCommandName},
		NetworkDriver: &childDriver{},
		CopyUpDriver:  tmpfssymlink.NewChildDriver(), CopyUpDirs: []string{"/etc"},
		MountProcfs: true,
		// The reaper executes the command in a session of its own, where the caller's terminal cannot be used.
		Reaper: !sharedTerminal,
	})
}

// start does what both parts begin with: they end with the launcher, and keep to themselves what they have to say.
func start() (sandbox.Spec, bool, error) {
	spec, sharedTerminal, err := sandbox.EngineSpec()
	if err != nil {
		return spec, false, err
	}
	if spec.Debug {
		logrus.SetLevel(logrus.DebugLevel)
	} else {
		logrus.SetOutput(io.Discard)
	}
	return spec, sharedTerminal, sandbox.EngineLifeline()
}
