//go:build linux && !client

package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/netstack"
	"github.com/weir-dev/weir/sandbox"
	"github.com/weir-dev/weir/sandbox/engine"
)

// What the whole binary says of itself. The client's has its own words (clientonly.go).
const (
	rootShort   = "The network layer for untrusted MCP servers"
	rootLong    = "weir runs a program in a rootless sandbox whose only network is weir itself:\nevery packet is carried, every flow named, judged by policy and recorded."
	rootExample = `  weir demo                                           see what it does, no network needed
  weir run -- npx -y @modelcontextprotocol/server-everything
  weir run --allow api.github.com -- npx -y @modelcontextprotocol/server-github
  weir doctor                                         can this machine run it?`
)

// hostCommands are those that need Linux, and what a sandbox is made of.
func hostCommands(g *globals) []*cobra.Command {
	return []*cobra.Command{
		newRunCommand(g), newReadCommand(), newDoctorCommand(g), newDemoCommand(g), newBenchCommand(g),
		newWrapCommand(), newUnwrapCommand(), newTProxyCommand(g), newKeysCommand(), newServeCommand(g),
	}
}

// becomePart is for the processes that weir starts of itself. It returns in the one that people start.
func becomePart() {
	netstack.ReleaseTables()
	switch {
	case sandbox.IsInit():
		sandbox.InitMain()
	case engine.Is():
		engine.Main()
	case isDataPath():
		dataPathMain()
	case isEdge():
		edgeMain()
	case os.Args[0] == probeTProxyName:
		probeTProxyMain()
	case os.Args[0] == probeHostName:
		probeHostMain()
	case os.Args[0] == probeLockdownName:
		probeLockdownMain()
	default:
		return
	}
	os.Exit(0)
}
