package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
)

func (s *session) keyCommand() *cobra.Command {
	c := group(&cobra.Command{Use: "key", Short: "the keys that keyringd serves"})
	c.AddCommand(s.keyListCommand(), s.keyShowCommand(), s.keyPublicCommand(), s.keyRequestCommand(),
		s.keyNewCommand(), s.keyImportCommand(), s.keyExportRequestCommand(), s.keyWrapForCommand(),
		s.keyPasswdCommand(), s.keyLabelCommand(), s.keyRemoveCommand(),
		s.keyAttestCommand(), s.keyVerifyAttestationCommand())
	return c
}

func (s *session) keyListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list all keys, those in the TPM first",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				keys, err := d.Keys(c.Context())
				if err != nil {
					return err
				}
				if s.json {
					return s.printJSON(keys)
				}
				return s.printTable(keyTable(keys))
			})
		},
	}
}

func keyTable(keys []client.Key) *table {
	t := &table{head: []string{"LABEL", "ALGORITHM", "KIND", "ASKS FOR", "FINGERPRINT", "FILE"}}
	for _, k := range keys {
		t.add(k.Label, k.Algorithm, k.Kind, asksFor(k), k.Fingerprint, strings.Join(k.Paths, " "))
	}
	return t
}

// asksFor is what a use of the key asks its user for.
func asksFor(k client.Key) string {
	var all []string
	switch {
	case k.NeedsAuth && k.Kind == "tpm":
		all = append(all, "PIN")
	case k.NeedsAuth:
		all = append(all, "passphrase")
	}
	if k.Confirm {
		all = append(all, "permission")
	}
	if len(all) == 0 {
		return "nothing"
	}
	return strings.Join(all, ", ")
}

func (s *session) keyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show KEY",
		Short:             "show all that is known of a key",
		Long:              "Shows all that is known of a key." + keyNames,
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: s.completeKey,
		RunE: func(c *cobra.Command, args []string) error {
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				k, err := findKey(c.Context(), d, args[0])
				if err != nil {
					return err
				}
				if s.json {
					return s.printJSON(k)
				}
				facts := []string{"Label", k.Label, "ID", k.ID, "Algorithm", k.Algorithm, "Fingerprint", k.Fingerprint,
					"Kind", k.Kind, "Asks for", asksFor(k)}
				for _, p := range k.Paths {
					facts = append(facts, "File", p)
				}
				if k.URI != "" {
					facts = append(facts, "PKCS #11", k.URI)
				}
				return s.printFacts(append(facts, "Certificates", fmt.Sprint(len(k.Certificates)))...)
			})
		},
	}
}

func (s *session) keyPublicCommand() *cobra.Command {
	asPEM := false
	c := &cobra.Command{
		Use:               "public KEY",
		Short:             "print a key's public half, as authorized_keys wants it",
		Long:              "Prints a key's public half as one line for authorized_keys, or as PEM." + keyNames,
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: s.completeKey,
		RunE: func(c *cobra.Command, args []string) error {
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				k, err := findKey(c.Context(), d, args[0])
				if err != nil {
					return err
				}
				text, err := publicText(k, asPEM)
				if err != nil {
					return err
				}
				if s.json {
					return s.printJSON(map[string]string{"id": k.ID, "public": text})
				}
				_, err = fmt.Fprintln(s.Out, text)
				return err
			})
		},
	}
	c.Flags().BoolVar(&asPEM, "pem", false, "print a PEM block as other programs want it, not an SSH line")
	return c
}

func publicText(k client.Key, asPEM bool) (string, error) {
	if asPEM {
		return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.SubjectPublicKeyInfo}))), nil
	}
	if len(k.PublicKey) < 4 || int(binary.BigEndian.Uint32(k.PublicKey)) > len(k.PublicKey)-4 {
		return "", hintedError{errors.New("SSH has no format for this key"), "--pem prints one that other programs read"}
	}
	name := k.PublicKey[4 : 4+binary.BigEndian.Uint32(k.PublicKey)]
	return printable(fmt.Sprintf("%s %s %s", name, base64.StdEncoding.EncodeToString(k.PublicKey), k.Label)), nil
}

const keyNames = `

A key is named by its label, its file, its fingerprint (SHA256:…), or the first
characters of its ID, four at least.`

// minPrefix is how much of an ID names a key: less is a typing mistake.
const minPrefix = 4

// match returns the keys that a name means. What is exact comes before what is
// short for something.
func match(keys []client.Key, name string) []client.Key {
	path, err := filepath.Abs(name)
	if err != nil {
		path = name
	}
	lower := strings.ToLower(name)
	for _, is := range []func(client.Key) bool{
		func(k client.Key) bool {
			return k.ID == lower || k.Fingerprint != "" && (k.Fingerprint == name || k.Fingerprint == "SHA256:"+name)
		},
		func(k client.Key) bool { return slices.Contains(k.Paths, path) },
		func(k client.Key) bool { return k.Label == name },
		func(k client.Key) bool { return len(name) >= minPrefix && strings.HasPrefix(k.ID, lower) },
		func(k client.Key) bool {
			return slices.ContainsFunc(k.Paths, func(p string) bool { return filepath.Base(p) == name })
		},
	} {
		var found []client.Key
		for _, k := range keys {
			if is(k) {
				found = append(found, k)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}
