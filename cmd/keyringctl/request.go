package main

import (
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/atomicfile"
)

// requestFlags are the flags that say what a certificate is requested for.
func requestFlags(c *cobra.Command, r *client.Request) {
	c.Flags().StringVar(&r.Subject, "subject", "", "the `name` to request a certificate for: CN=mail.example.org,O=Example")
	c.Flags().StringArrayVar(&r.AlternativeNames, "alternative-name", nil, "a further `name` of the request: host, address, mail address or URI; repeatable")
}

func (s *session) keyRequestCommand() *cobra.Command {
	var r client.Request
	var output string
	force := false
	c := &cobra.Command{
		Use:   "request KEY",
		Short: "print a certificate request that a key signed",
		Long: "Has a key sign a request for a certificate, and prints it as PEM. The certificate\n" +
			"that comes back goes beside the key's file, as NAME.crt: PKCS #11 shows it then." + keyNames,
		Args:              usage(cobra.ExactArgs(1)),
		ValidArgsFunction: s.completeKey,
		RunE: func(c *cobra.Command, args []string) error {
			if r.Empty() {
				return usageError{errors.New("--subject or --alternative-name says what the certificate is for")}
			}
			if output != "" {
				var err error
				if output, err = filepath.Abs(output); err != nil {
					return err
				}
				if err := writable(output, force); err != nil {
					return err
				}
			}
			return s.withKey(c, args[0], func(d *client.Client, k client.Key, _ client.File) error {
				der, err := d.RequestCertificate(c.Context(), k.ID, r)
				if err != nil {
					return err
				}
				text := requestText(der)
				if output != "" {
					return putFile(atomicfile.File{Path: output, Data: text, Perm: 0o644, Replace: force})
				}
				if s.json {
					return s.printJSON(map[string]string{"id": k.ID, "request": string(text)})
				}
				_, err = s.Out.Write(text)
				return err
			})
		},
	}
	requestFlags(c, &r)
	c.Flags().StringVar(&output, "output", "", "write it to this `file`")
	c.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	return c
}

// requestText is a PKCS #10 request as certificate authorities take it (RFC
// 7468 §7).
func requestText(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// putFile writes a file whole or not at all.
func putFile(f atomicfile.File) error {
	staged, err := atomicfile.Stage(nil, f)
	if err != nil {
		return hintedError{err, "see that there is room, and that you may write to " + filepath.Dir(f.Path)}
	}
	if err := staged.Commit(); err != nil {
		if errors.Is(err, os.ErrExist) {
			return hintedError{err, "choose another name, or replace it with --force"}
		}
		return err
	}
	return nil
}
