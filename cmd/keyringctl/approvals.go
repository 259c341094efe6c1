package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

func (s *session) approvalsCommand() *cobra.Command {
	c := group(&cobra.Command{Use: "approvals", Short: "what you allowed programs to do"})
	c.AddCommand(s.approvalsListCommand(), s.approvalsRevokeCommand())
	return c
}

func (s *session) approvalsListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the permissions that stand",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				list, err := d.Approvals(c.Context())
				if err != nil {
					return err
				}
				if s.json {
					return s.printJSON(list)
				}
				t := &table{head: []string{"ID", "KEY", "PROGRAM", "FOR", "UNTIL"}}
				for _, a := range list {
					t.add(strconv.FormatUint(a.ID, 10), a.Label, a.Program, a.Scope, until(a.Until))
				}
				return s.printTable(t)
			})
		},
	}
}

// until says when an approval ends; never by itself where there is no time.
func until(t time.Time) string {
	if t.IsZero() {
		return "locked"
	}
	return t.Format(time.TimeOnly)
}

func (s *session) approvalsRevokeCommand() *cobra.Command {
	all := false
	c := &cobra.Command{
		Use:   "revoke ID…",
		Short: "end permissions, so that the next use asks again",
		Args: usage(func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return fmt.Errorf("name IDs, or --all")
			}
			return nil
		}),
		RunE: func(c *cobra.Command, args []string) error {
			ids := make([]uint64, len(args))
			for i, a := range args {
				var err error
				if ids[i], err = strconv.ParseUint(a, 10, 64); err != nil {
					return usageError{fmt.Errorf("%q is not the ID of an approval", a)}
				}
			}
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				if all {
					list, err := d.Approvals(c.Context())
					if err != nil {
						return err
					}
					for _, a := range list {
						ids = append(ids, a.ID)
					}
				}
				for _, id := range ids {
					if err := d.Revoke(c.Context(), id); err != nil {
						return err
					}
				}
				return s.done(map[string]any{"revoked": ids}, fmt.Sprintf("%d revoked.", len(ids)))
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "end all of them")
	return c
}
