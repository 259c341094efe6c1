package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

func (s *session) lockCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "lock",
		Short: "forget every PIN, passphrase and approval now",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				if err := d.Lock(c.Context()); err != nil {
					return err
				}
				return s.done(map[string]any{"locked": true}, "Locked: every PIN and approval is forgotten.")
			})
		},
	}
}

func (s *session) unlockCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "unlock [KEY…]",
		Short: "enter PINs and passphrases ahead of their use",
		Long: "Asks for the PIN or passphrase of these keys now, one after the other, and\nremembers it as if they had been used. Without a KEY: of all that have one." +
			keyNames,
		ValidArgsFunction: s.completeKey,
		RunE: func(c *cobra.Command, args []string) error {
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				var ids []string
				for _, name := range args {
					k, err := findKey(c.Context(), d, name)
					if err != nil {
						return err
					}
					ids = append(ids, k.ID)
				}
				n, err := d.Unlock(c.Context(), ids...)
				if err != nil {
					return err
				}
				text := fmt.Sprintf("%d keys are unlocked.", n)
				switch n {
				case 0:
					text = "No key needs a PIN or passphrase."
				case 1:
					text = "1 key is unlocked."
				}
				return s.done(map[string]any{"unlocked": n}, text)
			})
		},
	}
}

// done prints that something was done.
func (s *session) done(asJSON any, text string) error {
	if s.json {
		return s.printJSON(asJSON)
	}
	_, err := fmt.Fprintln(s.Out, text)
	return err
}
