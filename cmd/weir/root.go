package main

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
)

// version is stamped by the release build; other builds say which commit they are of.
var version = "0.1.0-dev"

// globals are the flags that every command has.
type globals struct {
	json, noColor bool
	logLevel      string
}

func newRootCommand() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:               "weir",
		Short:             rootShort,
		Long:              rootLong,
		Version:           versionText(),
		SilenceUsage:      true,
		SilenceErrors:     true,
		Example:           rootExample,
		Args:              subcommandOnly,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error { return g.check() },
	}
	flags := root.PersistentFlags()
	flags.BoolVar(&g.json, "json", false, "print results as JSON on stdout")
	flags.BoolVar(&g.noColor, "no-color", false, "no colours (also: NO_COLOR)")
	flags.StringVar(&g.logLevel, "log-level", "warning", "what weir says of itself on stderr: debug, info, warning, error")
	offer(root, "log-level", "debug", "info", "warning", "error")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(hostCommands(g)...)
	root.AddCommand(newPolicyCommand(), newEnrollCommand(), newConnectCommand(g), newScreenGuardCommand())
	return root
}

func (g *globals) check() error {
	if _, err := logrus.ParseLevel(g.logLevel); err != nil {
		return usageError{fmt.Errorf("--log-level %q: want debug, info, warning or error", g.logLevel)}
	}
	return nil
}

// newLogger writes to w what the packages have to say to people.
func newLogger(w io.Writer, level string) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(w)
	log.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true, DisableColors: true})
	if l, err := logrus.ParseLevel(level); err == nil {
		log.SetLevel(l)
	}
	return log
}

// versionText is the version, with the commit where the build knows it.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return version + " (" + s.Value[:12] + ")"
		}
	}
	return version
}

// exitError ends weir with a status of its own. An empty text says nothing.
type exitError struct {
	status int
	err    error
}

func (e exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e exitError) Unwrap() error { return e.err }

// exitStatus turns the error of a command into the exit status.
func exitStatus(err error) int {
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.status
	case errors.As(err, &usage):
		return 2
	}
	return 1
}
