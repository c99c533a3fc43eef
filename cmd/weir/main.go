// Command weir runs untrusted programs (MCP servers, most of the time) in rootless sandboxes whose every packet is carried,
// named, judged and recorded by weir itself.
//
// One binary plays three parts, told apart by its name in argv[0]: the command that people type, the data path of a
// sandbox (datapath.go) and the sandbox's PID 1 (package sandbox; with --profile engine there is package engine besides). Parts of weir are joined only here, and only here is
// anything said to people (ui.go).
package main

import (
	"os"

	"github.com/weir-dev/weir/netstack"
	"github.com/weir-dev/weir/sandbox"
	"github.com/weir-dev/weir/sandbox/engine"
)

func main() {
	netstack.ReleaseTables()
	switch {
	case sandbox.IsInit():
		sandbox.InitMain()
	case engine.Is():
		engine.Main()
	case isDataPath():
		dataPathMain()
	case os.Args[0] == probeTProxyName:
		probeTProxyMain()
	case os.Args[0] == probeHostName:
		probeHostMain()
	case os.Args[0] == probeLockdownName:
		probeLockdownMain()
	default:
		os.Exit(Main(os.Args[1:]))
	}
}

// Main runs the command line and returns the exit status. It is what the test scripts call as "weir".
func Main(args []string) int {
	root := newRootCommand()
	root.SetArgs(args)
	err := root.Execute()
	if err != nil && err.Error() != "" {
		u := newUI(os.Stderr)
		if plain, _ := root.PersistentFlags().GetBool("no-color"); plain {
			u.color = false
		}
		u.fail(err)
	}
	return exitStatus(err)
}
