//go:build !linux || client

package main

import "github.com/spf13/cobra"

// What the client's binary says of itself.
const (
	rootShort   = "The user's end of a weir tunnel"
	rootLong    = "weir lets programs that run in a sandbox elsewhere reach what this machine reaches: what you allow,\nas long as this command runs. This is the client; sandboxes need weir for Linux."
	rootExample = `  weir enroll --tunnel https://edge.example:443 --token-file token
  weir connect --tunnel https://edge.example:443 --allow staging-db.internal.example.com:5432
  weir policy check weir.yaml`
)

// hostCommands are for Linux.
func hostCommands(*globals) []*cobra.Command { return nil }

// becomePart has no part to play: the client is one process.
func becomePart() {}
