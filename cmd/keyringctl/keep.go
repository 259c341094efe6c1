package main

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

// maxNonce is how many bytes a TPM certifies along with a key, as the daemon
// takes them.
const maxNonce = 32

// fileOf is the key that name means, and the one of its files where name is a
// file.
func fileOf(k client.Key, name string) client.File {
	f := client.File{ID: k.ID}
	if path, err := filepath.Abs(name); err == nil && slices.Contains(k.Paths, path) {
		f.Path = path
	}
	return f
}

// withKey runs do with the key that name means.
func (s *session) withKey(c *cobra.Command, name string, do func(*client.Client, client.Key, client.File) error) error {
	return s.withDaemon(c.Context(), func(d *client.Client) error {
		k, err := findKey(c.Context(), d, name)
		if err != nil {
			return err
		}
		return do(d, k, fileOf(k, name))
	})
}

func (s *session) keyPasswdCommand() *cobra.Command {
	noPIN := false
	c := &cobra.Command{
		Use:   "passwd KEY",
		Short: "change a key's PIN",
		Long: "Asks for the PIN of a TPM key and for a new one. Copies of the key file from\n" +
			"before keep the old PIN." + keyNames,
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: s.completeKey,
		RunE: func(c *cobra.Command, args []string) error {
			return s.withKey(c, args[0], func(d *client.Client, _ client.Key, f client.File) error {
				tell, done := s.progress()
				m, err := d.ChangeAuth(c.Context(), f, noPIN, tell)
				done()
				if err != nil {
					return err
				}
				return s.made("Changed the PIN of", m)
			})
		},
	}
	c.Flags().BoolVar(&noPIN, "no-pin", false, "take the PIN away")
	return c
}

func (s *session) keyLabelCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "label KEY TEXT",
		Short: "give a key another label",
		Long: "Writes TEXT as the label into the public key file beside a key. An empty TEXT\n" +
			"takes the label away, so that the file's name is shown." + keyNames,
		Args:              usage(cobra.ExactArgs(2)),
		ValidArgsFunction: s.completeKey,
		RunE: func(c *cobra.Command, args []string) error {
			return s.withKey(c, args[0], func(d *client.Client, k client.Key, f client.File) error {
				if err := d.SetLabel(c.Context(), f, args[1]); err != nil {
					return err
				}
				return s.done(map[string]string{"id": k.ID, "label": args[1]}, printable(fmt.Sprintf("The key is called %q now.", args[1])))
			})
		},
	}
}

func (s *session) keyRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove KEY",
		Short: "delete a key of the TPM, for ever",
		Long: "Deletes the files of a TPM key, after it asked you. Nothing brings the key back,\n" +
			"unless there are copies of its file. Where KEY is one of several files, the others\nstay." + keyNames,
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: s.completeKey,
		RunE: func(c *cobra.Command, args []string) error {
			return s.withKey(c, args[0], func(d *client.Client, k client.Key, f client.File) error {
				if err := d.Remove(c.Context(), f); err != nil {
					return err
				}
				removed := k.Paths
				if f.Path != "" {
					removed = []string{f.Path}
				}
				return s.done(map[string]any{"id": k.ID, "removed": removed}, printable(fmt.Sprintf("Removed %s.", cell(k.Label))))
			})
		},
	}
}

func (s *session) keyAttestCommand() *cobra.Command {
	var nonce string
	c := &cobra.Command{
		Use:   "attest KEY",
		Short: "print the TPM's statement that a key lives in it",
		Long: "Has the TPM certify that a key lives in it and cannot leave, and prints that as\n" +
			"JSON. keyringctl key verify-attestation checks it, on any machine." + keyNames,
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: s.completeKey,
		RunE: func(c *cobra.Command, args []string) error {
			raw, err := parseNonce(nonce)
			if err != nil {
				return err
			}
			return s.withKey(c, args[0], func(d *client.Client, _ client.Key, f client.File) error {
				statement, err := d.Attest(c.Context(), f, raw)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(s.Out, "%s\n", statement)
				return err
			})
		},
	}
	c.Flags().StringVar(&nonce, "nonce", "", "`hex` digits from whoever will check it, so that it is known to be new; 64 at most")
	return c
}

func parseNonce(s string) ([]byte, error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) > maxNonce {
		return nil, usageError{fmt.Errorf("--nonce: %q is not an even number of hex digits, %d at most", s, 2*maxNonce)}
	}
	return raw, nil
}
