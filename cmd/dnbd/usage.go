package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// usageError is a command line that makes no sense. The process exits with exitUsage.
type usageError struct {
	err error
	cmd *cobra.Command // whose help has the answer; set by strict
}

func (e *usageError) Error() string {
	if e.cmd == nil {
		return e.err.Error()
	}
	return fmt.Sprintf("%v; see '%s --help'", e.err, e.cmd.CommandPath())
}

func (e *usageError) Unwrap() error { return e.err }

// usagef makes a usageError. The text names the flag or the argument that is wrong.
func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// strict makes everything that is wrong with a command line a usageError, for cmd and all commands below it: unknown flags
// and commands, wrong values, missing arguments, and the usageErrors that a command itself returns.
func strict(cmd *cobra.Command) {
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{err, cmd} })
	if cmd.HasSubCommands() {
		cmd.Args = commandExpected
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			if err := cmd.Help(); err != nil {
				return err
			}
			return &usageError{errors.New("name one of the commands"), cmd}
		}
	}
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, given []string) error {
			err := args(cmd, given)
			var usage *usageError
			switch {
			case err == nil:
				return nil
			case errors.As(err, &usage):
				usage.cmd = cmd
				return err
			}
			return &usageError{fmt.Errorf("%w; the usage is: %s", err, cmd.UseLine()), cmd}
		}
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			err := run(cmd, args)
			var usage *usageError
			if errors.As(err, &usage) {
				usage.cmd = cmd
			}
			return err
		}
	}
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
}

// commandExpected takes no arguments where a command should stand.
func commandExpected(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fmt.Errorf("%q is not a command of %s", args[0], cmd.CommandPath())
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		err = fmt.Errorf("%w; is it %s?", err, strings.Join(near, " or "))
	}
	return &usageError{err, cmd}
}
