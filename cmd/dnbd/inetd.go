package main

import "github.com/spf13/cobra"

// sparingClient runs a command whose client may be on standard input, as inetd has it, and hears no word of ours then. What there is
// to say goes to the system's log where standard error is that client, too.
func sparingClient(cmd *cobra.Command, run func() error) error {
	spared, err := spareClient()
	if err != nil {
		return err
	}
	if spared {
		cmd.SetErr(systemLog())
	}
	err = run()
	if err != nil && spared {
		cmd.PrintErrf("%v\n", err)
	}
	return err
}
