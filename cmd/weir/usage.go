package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// usageError is a command line that cannot be understood.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// wants makes a command take exactly the named arguments.
func wants(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		what := "no argument"
		if len(names) > 0 {
			what = strings.Join(names, " ")
		}
		return usageError{hint(fmt.Errorf("%s: want %s, %d given", cmd.CommandPath(), what, len(args)), "%s --help", cmd.CommandPath())}
	}
}

// subcommandOnly is for a command that only holds others: an argument can only be one of them, misspelt.
func subcommandOnly(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	fix := cmd.CommandPath() + " --help"
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		fix = cmd.CommandPath() + " " + near[0]
	}
	return usageError{hint(fmt.Errorf("unknown command %q", strings.TrimPrefix(cmd.CommandPath()+" ", "weir ")+args[0]), "%s", fix)}
}

// offer has the shell complete the flag with these values.
func offer(cmd *cobra.Command, flag string, values ...string) {
	values = slices.DeleteFunc(values, func(v string) bool { return v == "" })
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // there is no such flag: every run of weir would say so
	}
}

// flagError is an error of the flags' parser, without what Go says of its own functions.
func flagError(cmd *cobra.Command, err error) error {
	text, _, _ := strings.Cut(err.Error(), ": strconv.")
	return usageError{hint(errors.New(text), "%s --help", cmd.CommandPath())}
}
