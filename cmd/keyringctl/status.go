package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

func (s *session) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show how keyringd is, and what is wrong",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				status, err := d.Status(c.Context())
				if err != nil {
					return err
				}
				hints := s.hints(status)
				if s.json {
					return s.printJSON(map[string]any{"status": status, "hints": hints})
				}
				if err := s.printFacts(facts(status)...); err != nil {
					return err
				}
				for _, h := range hints {
					if _, err := fmt.Fprintln(s.Out, "hint: "+printable(h)); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// facts are the pairs to print: those that every daemon has first, then the
// rest by name.
func facts(status map[string]any) []string {
	first := []string{"Version", "PID", "Keys", "TPMKeys", "Approvals", "Remember"}
	var rest []string
	for _, name := range slices.Sorted(maps.Keys(status)) {
		if !slices.Contains(first, name) && name != leftOut {
			rest = append(rest, name)
		}
	}
	var pairs []string
	for _, name := range append(first, rest...) {
		v, ok := status[name]
		if !ok {
			continue
		}
		text := fmt.Sprint(v)
		switch x := v.(type) {
		case []string:
			text = strings.Join(x, " ")
		case bool:
			text = map[bool]string{true: "yes", false: "no"}[x]
		}
		if seconds, ok := v.(uint64); ok && name == "Remember" {
			text = "never"
			if seconds > 0 {
				text = (time.Duration(seconds) * time.Second).String()
			}
		}
		pairs = append(pairs, words(name), text)
	}
	return pairs
}

// words splits a name in upper camel case: TPMKeys, SSHSocket.
func words(name string) string {
	var b strings.Builder
	upper := func(i int) bool { return i < len(name) && name[i] >= 'A' && name[i] <= 'Z' }
	for i := range len(name) {
		begins := upper(i) && i > 0 && (!upper(i-1) || i+1 < len(name) && !upper(i+1))
		if begins {
			b.WriteByte(' ')
		}
		if begins && !upper(i+1) || i > 0 && upper(i) && !upper(i-1) && !upper(i+1) {
			b.WriteString(strings.ToLower(name[i : i+1]))
			continue
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// leftOut names the fact that is printed as hints: each says what to do.
const leftOut = "LeftOut"

// hints says what keeps programs from using the daemon.
func (s *session) hints(status map[string]any) []string {
	hints := []string{}
	socket, _ := status["SSHSocket"].(string)
	switch mine := s.Getenv("SSH_AUTH_SOCK"); {
	case socket == "" || mine == socket:
	case mine == "":
		hints = append(hints, "ssh does not know keyringd here: export SSH_AUTH_SOCK="+socket)
	default:
		hints = append(hints, "ssh asks another agent, at "+mine+": export SSH_AUTH_SOCK="+socket)
	}
	if n, ok := status["Keys"].(uint32); ok && n == 0 {
		hints = append(hints, "there are no keys: put key files into ~/.ssh, or name their folder with keyringd --key-dir")
	}
	files, _ := status[leftOut].([]string)
	for _, f := range files {
		hints = append(hints, "left out "+f)
	}
	return hints
}
