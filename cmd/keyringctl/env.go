package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// envCommand prints what a shell evaluates.
func (s *session) envCommand() *cobra.Command {
	var shell string
	var force bool
	c := &cobra.Command{
		Use:   "env",
		Short: "print the line that tells ssh in this shell about keyringd",
		Long: "Prints a line for the shell to evaluate:\n\n" +
			"  sh, bash, zsh   eval \"$(keyringctl env)\"\n" +
			"  fish            keyringctl env --shell fish | source\n" +
			"  csh             eval `keyringctl env --shell csh`\n\n" +
			"It prints nothing where SSH_AUTH_SOCK is set to another agent already, as that of\n" +
			"somebody who has logged in from elsewhere, unless --force is given.",
		Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			m := machine{s}
			socket := m.sshSocket()
			if socket == "" {
				return hintedError{errNoRuntime, "log in through a login manager or over ssh, or export XDG_RUNTIME_DIR"}
			}
			if mine := s.Getenv("SSH_AUTH_SOCK"); mine != "" && mine != socket && !force {
				_, err := fmt.Fprintf(s.Err, "keyringctl: SSH_AUTH_SOCK is set to %s already and is left as it is\nhint: keyringctl env --force\n", printable(mine))
				return err
			}
			if shell == "" {
				shell = filepath.Base(s.Getenv("SHELL"))
			}
			var line string
			switch shell {
			case "fish":
				line = "set -gx SSH_AUTH_SOCK '" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(socket) + "';"
			case "csh", "tcsh":
				// "!" stands for the history, even in quotes.
				line = "setenv SSH_AUTH_SOCK '" + strings.NewReplacer(`'`, `'\''`, "!", `\!`).Replace(socket) + "';"
			default:
				line = "SSH_AUTH_SOCK='" + strings.ReplaceAll(socket, `'`, `'\''`) + "'; export SSH_AUTH_SOCK;"
			}
			_, err := fmt.Fprintln(s.Out, line)
			return err
		},
	}
	c.Flags().StringVar(&shell, "shell", "", "the `SHELL` to print for: sh, fish or csh (default: that of $SHELL)")
	c.Flags().BoolVar(&force, "force", false, "also where SSH_AUTH_SOCK names another agent")
	return c
}
