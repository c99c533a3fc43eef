// Command weir runs untrusted programs (MCP servers, most of the time) in rootless sandboxes whose every packet is carried,
// named, judged and recorded by weir itself.
//
// One binary plays three parts, told apart by its name in argv[0]: the command that people type, the data path of a
// sandbox (datapath.go) and the sandbox's PID 1 (package sandbox; with --profile engine there is package engine besides). Parts of weir are joined only here, and only here is
// anything said to people (ui.go).
//
// It is built in two sizes. Elsewhere than on Linux, and with the tag "client", there are only the commands of the user's
// end of a tunnel, and no gVisor: files that a sandbox, a door or the hosted end needs begin with "linux && !client".
package main

import "os"

func main() {
	becomePart()
	os.Exit(Main(os.Args[1:]))
}

// Main runs the command line and returns the exit status. It is what the test scripts call as "weir".
func Main(args []string) int {
	root := newRootCommand()
	root.SetArgs(args)
	err := tokenInArgs(args)
	if err == nil {
		err = root.Execute()
	}
	if err != nil && err.Error() != "" {
		u := newUI(os.Stderr)
		if plain, _ := root.PersistentFlags().GetBool("no-color"); plain {
			u.color = false
		}
		u.fail(err)
	}
	return exitStatus(err)
}
