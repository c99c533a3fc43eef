//go:build !unix

package main

import (
	"os"

	"github.com/spf13/cobra"
)

// guardScreen does nothing: a console of this system forgets the modes of a process that has ended.
func guardScreen(_, _ *os.File) (done func()) { return func() {} }

func newScreenGuardCommand() *cobra.Command { return &cobra.Command{Use: "screen-guard", Hidden: true} }
