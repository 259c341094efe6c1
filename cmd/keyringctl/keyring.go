package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

const keyringNames = `

A keyring is named by its ID, an alias such as default or login, or its label.`

func (s *session) keyringCommand() *cobra.Command {
	c := group(&cobra.Command{Use: "keyring", Short: "the keyrings that hold passwords"})
	c.AddCommand(s.keyringListCommand(), s.keyringNewCommand(), s.keyringLockCommand(), s.keyringUnlockCommand(),
		s.keyringPasswdCommand(), s.keyringSlotCommand())
	return c
}

func (s *session) keyringListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list all keyrings",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				all, err := d.Keyrings(c.Context())
				if err != nil {
					return err
				}
				if s.json {
					return s.printJSON(all)
				}
				t := &table{head: []string{"ID", "LABEL", "STATE", "ITEMS", "ALSO CALLED", "CHANGED"}}
				for _, k := range all {
					state := "unlocked"
					if k.Locked {
						state = "locked"
					}
					items := "unknown"
					if k.Items >= 0 {
						items = strconv.Itoa(k.Items)
					}
					t.add(k.ID, k.Label, state, items, strings.Join(k.Aliases, ", "), when(k.Modified))
				}
				return s.printTable(t)
			})
		},
	}
}

// when is a time as a table shows it.
func when(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.Format(time.DateTime)
}

// findKeyring returns the keyring that name means.
func findKeyring(ctx context.Context, d *client.Client, name string) (client.Keyring, error) {
	all, err := d.Keyrings(ctx)
	if err != nil {
		return client.Keyring{}, err
	}
	for _, is := range []func(client.Keyring) bool{
		func(k client.Keyring) bool { return k.ID == name },
		func(k client.Keyring) bool { return slices.Contains(k.Aliases, name) },
		func(k client.Keyring) bool { return k.Label == name },
	} {
		var found []client.Keyring
		for _, k := range all {
			if is(k) {
				found = append(found, k)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return client.Keyring{}, hintedError{fmt.Errorf("%d keyrings are called %q", len(found), name),
				"name it by its ID, in the first column of keyringctl keyring list"}
		}
	}
	return client.Keyring{}, hintedError{fmt.Errorf("there is no keyring %q", name), "keyringctl keyring list shows those that there are"}
}

// withKeyring runs do with the keyring that name means.
func (s *session) withKeyring(c *cobra.Command, name string, do func(*client.Client, client.Keyring) error) error {
	return s.withDaemon(c.Context(), func(d *client.Client) error {
		k, err := findKeyring(c.Context(), d, name)
		if err != nil {
			return err
		}
		return do(d, k)
	})
}

// completeKeyring completes the name of a keyring.
func (s *session) completeKeyring(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	_ = s.withDaemon(c.Context(), func(d *client.Client) error {
		all, err := d.Keyrings(c.Context())
		for _, k := range all {
			names = append(names, k.ID+"\t"+printable(k.Label))
		}
		return err
	})
	return names, cobra.ShellCompDirectiveNoFileComp
}

// onKeyring makes c a command about one keyring, which done tells the end of.
func (s *session) onKeyring(c *cobra.Command, do func(context.Context, *client.Client, string) error, done string) *cobra.Command {
	c.Long += keyringNames
	c.Args = usage(cobra.ExactArgs(1))
	c.ValidArgsFunction = s.completeKeyring
	c.RunE = func(c *cobra.Command, args []string) error {
		return s.withKeyring(c, args[0], func(d *client.Client, k client.Keyring) error {
			if err := do(c.Context(), d, k.ID); err != nil {
				return err
			}
			return s.done(map[string]string{"id": k.ID}, printable(fmt.Sprintf(done, k.Label)))
		})
	}
	return c
}

func (s *session) keyringNewCommand() *cobra.Command {
	again := false
	c := &cobra.Command{
		Use:   "new LABEL",
		Short: "make a keyring",
		Long: "Makes a keyring, whose passphrase you are asked for. One whose label another has,\n" +
			"in capitals or not, is made with --same-label only.",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if strings.TrimSpace(args[0]) == "" {
				return usageError{errors.New("a keyring needs a label")}
			}
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				if !again {
					if err := unlabelled(c.Context(), d, args[0]); err != nil {
						return err
					}
				}
				id, err := d.CreateKeyring(c.Context(), args[0])
				if err != nil {
					return err
				}
				return s.done(map[string]string{"id": id}, printable(fmt.Sprintf("Made the keyring %s (%s).", args[0], id)))
			})
		},
	}
	c.Flags().BoolVar(&again, "same-label", false, "make it even if another keyring has the label")
	return c
}

// unlabelled is an error if a keyring has that label already, or goes by it as a
// name: two of a name are told apart by nobody.
func unlabelled(ctx context.Context, d *client.Client, label string) error {
	all, err := d.Keyrings(ctx)
	if err != nil {
		return err
	}
	same := func(other string) bool { return strings.EqualFold(strings.TrimSpace(other), strings.TrimSpace(label)) }
	for _, k := range all {
		if !same(k.Label) && !same(k.ID) && !slices.ContainsFunc(k.Aliases, same) {
			continue
		}
		hint := "choose another label, or add --same-label"
		if k.ID == "login" && k.Created.IsZero() && k.Items == 0 { // it only seems to be there
			hint = "keyringctl keyring unlock login makes it"
		}
		return hintedError{fmt.Errorf("there is a keyring %q already (%s)", k.Label, k.ID), hint}
	}
	return nil
}

func (s *session) keyringLockCommand() *cobra.Command {
	return s.onKeyring(&cobra.Command{
		Use:   "lock KEYRING",
		Short: "lock a keyring",
		Long:  "Locks a keyring. It is unlocked again when a program wants something of it and you\nagree, or with keyringctl keyring unlock.",
	}, func(ctx context.Context, d *client.Client, id string) error { return d.LockKeyring(ctx, id) }, "Locked %s.")
}

func (s *session) keyringUnlockCommand() *cobra.Command {
	return s.onKeyring(&cobra.Command{
		Use:   "unlock KEYRING",
		Short: "unlock a keyring",
		Long:  "Unlocks a keyring; you are asked for what it needs.",
	}, func(ctx context.Context, d *client.Client, id string) error { return d.UnlockKeyring(ctx, id) }, "Unlocked %s.")
}

func (s *session) keyringPasswdCommand() *cobra.Command {
	return s.onKeyring(&cobra.Command{
		Use:   "passwd KEYRING",
		Short: "change a keyring's passphrase",
		Long: "Asks for a keyring's passphrase and for a new one. That of the login keyring should\n" +
			"be your login password: then logging in unlocks it.",
	}, func(ctx context.Context, d *client.Client, id string) error { return d.ChangePassphrase(ctx, id) }, "Changed the passphrase of %s.")
}

func (s *session) keyringSlotCommand() *cobra.Command {
	c := group(&cobra.Command{Use: "slot", Short: "the ways to unlock a keyring"})
	c.AddCommand(s.slotListCommand(), s.slotAddCommand(), s.slotRemoveCommand())
	return c
}

func (s *session) slotListCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "list KEYRING",
		Short:             "list the ways to unlock a keyring",
		Long:              "Lists the ways to unlock a keyring." + keyringNames,
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: s.completeKeyring,
		RunE: func(c *cobra.Command, args []string) error {
			return s.withKeyring(c, args[0], func(d *client.Client, k client.Keyring) error {
				all, err := d.Slots(c.Context(), k.ID)
				if err != nil {
					return err
				}
				if s.json {
					return s.printJSON(all)
				}
				t := &table{head: []string{"SLOT", "KIND", "WANTS", "MADE"}}
				for _, slot := range all {
					t.add(slot.ID, slot.Kind, wants(slot), when(slot.Created))
				}
				return s.printTable(t)
			})
		},
	}
}

// wants is what opening a slot takes.
func wants(slot client.Slot) string {
	switch slot.Kind {
	case "passphrase":
		return "the passphrase"
	case "recovery":
		return "the code"
	}
	text := "this TPM"
	if slot.PIN {
		text += " and the PIN"
	}
	if slot.PCRs != "" {
		text += ", PCRs " + slot.PCRs + " as they were"
	}
	return text
}

// slotKinds are the kinds of slots, as the daemon calls them.
var slotKinds = []string{"passphrase", "tpm", "recovery"}

func (s *session) slotAddCommand() *cobra.Command {
	var pcrs string
	pin := false
	c := &cobra.Command{
		Use:   "add KEYRING passphrase|tpm|recovery",
		Short: "add a way to unlock a keyring",
		Long: "Adds a way to unlock a keyring, and leaves the others as they are:\n\n" +
			"passphrase  one that you choose, where there is none: it has one at most\n" +
			"tpm         this machine's TPM: the keyring is unlocked with no question asked, after a\n" +
			"            login with a fingerprint for instance; or with a PIN\n" +
			"recovery    a code that is shown once, to be kept on paper" + keyringNames,
		Args: usage(func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || !slices.Contains(slotKinds, args[1]) {
				return fmt.Errorf("name a keyring, and one of %s", strings.Join(slotKinds, ", "))
			}
			return nil
		}),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return slotKinds, cobra.ShellCompDirectiveNoFileComp
			}
			return s.completeKeyring(c, args, word)
		},
		RunE: func(c *cobra.Command, args []string) error {
			kind := args[1]
			if kind != "tpm" && (pin || pcrs != "") {
				return usageError{errors.New("--pin and --pcr are for a tpm slot")}
			}
			return s.withKeyring(c, args[0], func(d *client.Client, k client.Keyring) error {
				if kind == "recovery" {
					return s.addRecovery(c.Context(), d, k)
				}
				id, err := d.AddSlot(c.Context(), k.ID, kind, pin, pcrs)
				if err != nil {
					return err
				}
				return s.done(map[string]string{"id": k.ID, "slot": id}, printable(fmt.Sprintf("Added slot %s to %s.", id, k.Label)))
			})
		},
	}
	c.Flags().BoolVar(&pin, "pin", false, "the TPM wants a PIN, which you choose")
	c.Flags().StringVar(&pcrs, "pcr", "", "only while these `registers` are as they are now: sha256:7; a firmware update changes them")
	return c
}

func (s *session) addRecovery(ctx context.Context, d *client.Client, k client.Keyring) error {
	id, code, err := d.AddRecoverySlot(ctx, k.ID)
	if err != nil {
		return err
	}
	defer clear(code)
	if s.json {
		return s.printJSON(map[string]string{"id": k.ID, "slot": id, "code": string(code)})
	}
	if _, err := fmt.Fprintln(s.Out, printable(fmt.Sprintf("Added slot %s to %s. Its recovery code, which is shown only now:\n", id, k.Label))); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.Out, "    %s\n\nWrite it down and keep it where your papers are: whoever has it can unlock the keyring.\n", code)
	return err
}

func (s *session) slotRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "remove KEYRING SLOT",
		Short:             "remove a way to unlock a keyring",
		Long:              "Removes a way to unlock a keyring, after it asked you. The last one stays." + keyringNames,
		Args:              usage(cobra.ExactArgs(2)),
		ValidArgsFunction: s.completeKeyring,
		RunE: func(c *cobra.Command, args []string) error {
			return s.withKeyring(c, args[0], func(d *client.Client, k client.Keyring) error {
				if err := d.RemoveSlot(c.Context(), k.ID, args[1]); err != nil {
					return err
				}
				return s.done(map[string]string{"id": k.ID, "slot": args[1]}, printable(fmt.Sprintf("Removed slot %s of %s.", args[1], k.Label)))
			})
		},
	}
}
