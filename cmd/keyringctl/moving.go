package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

func (s *session) importCommand() *cobra.Command {
	c := group(&cobra.Command{Use: "import", Short: "bring passwords in from elsewhere"})
	c.AddCommand(s.importFrom(false, &cobra.Command{
		Use:   "gnome-keyring PATH…",
		Short: "import keyrings of gnome-keyring, libsecret and oo7",
		Long: "Reads keyrings in files or folders, such as ~/.local/share/keyrings, and puts the\n" +
			"passwords into keyrings of the same name. You are asked for the password of those\n" +
			"that are encrypted. Nothing that is here is replaced, and the files stay as they\n" +
			"are; what was broken in them is repaired where it can be, and said.",
	}), s.importFrom(true, &cobra.Command{
		Use:   "archive FILE…",
		Short: "import what keyringctl export wrote",
		Long: "Reads archives that keyringctl export wrote, and puts the passwords into keyrings\n" +
			"of the same name. Nothing that is here is replaced.",
	}))
	return c
}

// importFrom makes c import what its arguments name.
func (s *session) importFrom(archive bool, c *cobra.Command) *cobra.Command {
	var into string
	c.Args = usage(cobra.MinimumNArgs(1))
	c.RunE = func(c *cobra.Command, args []string) error {
		paths := make([]string, len(args))
		for i, a := range args {
			var err error
			if paths[i], err = filepath.Abs(a); err != nil {
				return err
			}
		}
		return s.withDaemon(c.Context(), func(d *client.Client) error {
			all, err := d.ImportKeyrings(c.Context(), paths, into, archive)
			if err != nil {
				return err
			}
			return s.moved("Imported", all)
		})
	}
	c.Flags().StringVar(&into, "into", "", "put all of it into this `keyring`: its ID, an alias such as default, or its label")
	return c
}

func (s *session) exportCommand() *cobra.Command {
	var e client.Export
	c := &cobra.Command{
		Use:   "export FILE",
		Short: "write passwords into an archive",
		Long: "Writes all keyrings, or those that are named, into FILE, encrypted with a\n" +
			"passphrase that you choose. keyringctl import archive reads it again, here or on\nanother machine.",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if e.Path, err = filepath.Abs(args[0]); err != nil {
				return err
			}
			if err := writable(e.Path, e.Force); err != nil {
				return err
			}
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				all, err := d.ExportKeyrings(c.Context(), e)
				if err != nil {
					return err
				}
				return s.moved("Exported", all)
			})
		},
	}
	c.Flags().StringArrayVar(&e.Keyrings, "keyring", nil, "only this `keyring`: its ID, an alias such as default, or its label; repeatable")
	c.Flags().BoolVar(&e.Plain, "plain", false, "write readable JSON, not encrypted: whoever has the file has the passwords")
	c.Flags().BoolVar(&e.Force, "force", false, "replace a file that is there")
	return c
}

// moved prints what became of keyrings. One that failed is an error, after all
// of them were told.
func (s *session) moved(done string, all []client.Moved) error {
	failed := 0
	for _, m := range all {
		if m.Error != "" {
			failed++
		}
	}
	var err error
	if failed > 0 {
		err = hintedError{fmt.Errorf("%d of %d could not be moved", failed, len(all)), "the others are done; the same command may be run again, and does nothing twice"}
	}
	if s.json {
		return errors.Join(s.printJSON(all), err)
	}
	for _, m := range all {
		text := fmt.Sprintf("%s %d passwords of %s", done, m.Items, m.Label)
		if m.Items == 1 {
			text = fmt.Sprintf("%s 1 password of %s", done, m.Label)
		}
		if m.There > 0 {
			text += fmt.Sprintf("; %d were here already", m.There)
		}
		if m.Error != "" {
			text = fmt.Sprintf("%s: %s", m.Label, m.Error)
		}
		if _, err := fmt.Fprintln(s.Out, printable(text)); err != nil {
			return err
		}
		for _, n := range m.Notes {
			if _, err := fmt.Fprintln(s.Out, printable("note: "+n)); err != nil {
				return err
			}
		}
	}
	if len(all) == 0 && err == nil {
		return hintedError{errors.New("no keyring was found there"), "gnome-keyring keeps them in ~/.local/share/keyrings"}
	}
	return err
}
