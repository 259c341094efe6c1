package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

func (s *session) logCommand() *cobra.Command {
	lines := 0
	c := &cobra.Command{
		Use:   "log",
		Short: "show which keys were used lately, by whom and what for",
		Long: "log shows the latest uses of keys since keyringd was started, the oldest first. The journal has them all:\n" +
			"journalctl --user --unit keyringd",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				list, err := d.History(c.Context())
				if err != nil {
					return err
				}
				if lines > 0 {
					list = list[max(0, len(list)-lines):]
				}
				if s.json {
					return s.printJSON(list)
				}
				t := &table{head: []string{"TIME", "KEY", "PROGRAM", "OVER", "FOR", "RESULT"}}
				for _, p := range list {
					result := p.Outcome
					if result == "" {
						result = "used"
					}
					t.add(p.At.Format(time.DateTime), p.Label, p.Caller, p.FrontEnd, p.Reason, result)
				}
				return s.printTable(t)
			})
		},
	}
	c.Flags().IntVarP(&lines, "lines", "n", 0, "show the last `N` only")
	return c
}
