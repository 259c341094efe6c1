package main

import (
	"encoding/base64"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/atomicfile"
)

// maxSealed is what is read of a secret; the TPM takes far less, and says so.
const maxSealed = 4096

// runtimeDir is where a socket can be that nobody else finds.
func (s *session) runtimeDir() string {
	if dir := s.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir
		}
	}
	return os.TempDir()
}

func (s *session) sealCommand() *cobra.Command {
	var flags targetFlags
	input := "-"
	c := &cobra.Command{
		Use:   "seal FILE",
		Short: "seal a small secret into a file that only this TPM can read",
		Long: "Reads a secret of at most some 100 bytes from standard input, and writes it to FILE\n" +
			"so that only this machine's TPM can read it, with the PIN that you choose. Other\nprograms for TPM key files read it, too.",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := flags.target(args[0])
			if err != nil {
				return err
			}
			if t.Path, err = filepath.Abs(args[0]); err != nil {
				return err
			}
			data, err := s.readArgument(input, maxSealed)
			if err != nil {
				return err
			}
			defer clear(data)
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				tell, done := s.progress()
				t.Progress = tell
				m, err := d.Seal(c.Context(), s.runtimeDir(), data, t)
				done()
				if err != nil {
					return err
				}
				return s.made("Sealed", m)
			})
		},
	}
	flags.addSecret(c)
	c.Flags().StringVar(&input, "input", "-", "the `file` to read the secret from; - is standard input")
	return c
}

func (s *session) unsealCommand() *cobra.Command {
	var output string
	force := false
	c := &cobra.Command{
		Use:   "unseal FILE",
		Short: "print what is in a sealed file",
		Long:  "Prints the secret in a sealed file as it is, or writes it to a file that only you\ncan read.",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				data, err := d.Unseal(c.Context(), s.runtimeDir(), path)
				if err != nil {
					return err
				}
				defer clear(data)
				switch {
				case output != "":
					return s.writeSecret(output, data, force)
				case s.json:
					return s.printJSON(map[string]string{"secret": base64.StdEncoding.EncodeToString(data)})
				}
				_, err = s.Out.Write(data)
				return err
			})
		},
	}
	c.Flags().StringVar(&output, "output", "", "the `file` to write the secret to")
	c.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	return c
}

func (s *session) writeSecret(path string, data []byte, force bool) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	staged, err := atomicfile.Stage(nil, atomicfile.File{Path: path, Data: data, Perm: 0o600, Replace: force})
	if err == nil {
		err = staged.Commit()
	}
	if err != nil {
		return hintedError{err, "choose another name, or replace a file with --force"}
	}
	return s.done(map[string]string{"path": path}, printable("Wrote "+path))
}
