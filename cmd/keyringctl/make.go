package main

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/keyringd/keyringd/dbus/client"
	"github.com/keyringd/keyringd/internal/atomicfile"
)

// algorithms are offered by completion. What the TPM really has, the daemon
// knows.
var algorithms = []string{"ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "rsa-2048", "rsa-3072", "rsa-4096"}

// maxFile is far more than any file that is sent to the daemon has.
const maxFile = 32 << 10

const fileNames = `

A bare name is in the first key folder (keyringd --key-dir); ./NAME and every
other path is taken as it is.`

// targetFlags are the options of all that make a file for this machine's TPM.
type targetFlags struct {
	client.Target
	parent string
}

func (t *targetFlags) add(c *cobra.Command) {
	t.addCommon(c)
	t.addPlace(c)
}

// addSecret is add for a secret that is no key.
func (t *targetFlags) addSecret(c *cobra.Command) {
	t.addPlace(c)
	c.Flags().BoolVar(&t.NoPIN, "no-pin", false, "guard the secret by no PIN: whoever may use this TPM and has the file can read it")
	c.Flags().BoolVar(&t.Force, "force", false, "replace a file that is there")
}

func (t *targetFlags) addPlace(c *cobra.Command) {
	c.Flags().StringVar(&t.PCRs, "pcr", "", "of use only while these `registers` are as they are now: sha256:0,7")
	c.Flags().StringVar(&t.parent, "parent", "", "`handle` of the parent key: 0x81000001 (default: the owner's storage root key)")
}

func (t *targetFlags) addCommon(c *cobra.Command) {
	c.Flags().BoolVar(&t.NoPIN, "no-pin", false, "guard the key by no PIN: whoever may use this TPM and has the file can use it")
	c.Flags().StringVar(&t.Comment, "comment", "", "the key's `label`")
	c.Flags().BoolVar(&t.Force, "force", false, "replace files that are there")
}

// target is what the flags say, with its path.
func (t *targetFlags) target(path string) (client.Target, error) {
	r := t.Target
	var err error
	if r.Parent, err = parseHandle(t.parent); err != nil {
		return r, err
	}
	r.Path, err = targetPath(path)
	return r, err
}

func parseHandle(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	h, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return 0, usageError{fmt.Errorf("--parent: %q is not a handle, such as 0x81000001", s)}
	}
	return uint32(h), nil
}

// targetPath leaves a bare name to the daemon, and makes all else absolute.
func targetPath(name string) (string, error) {
	if name == "" || !strings.Contains(name, "/") {
		return name, nil
	}
	return filepath.Abs(name)
}

// readArgument reads a file that is named on the command line; - is standard
// input.
func (s *session) readArgument(name string, max int64) ([]byte, error) {
	in := s.In
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, max+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%s has more than %d bytes, too much for what it should hold", name, max)
	}
	return data, nil
}

// made prints what was made.
func (s *session) made(verb string, m client.Made) error {
	if s.json {
		return s.printJSON(m)
	}
	text := fmt.Sprintf("%s %s", verb, m.Path)
	if m.PublicKey != "" {
		text += "\n" + strings.TrimSpace(m.PublicKey)
	}
	for _, n := range m.Notes {
		text += "\nnote: " + n
	}
	_, err := fmt.Fprintln(s.Out, printable(text))
	return err
}

func (s *session) keyNewCommand() *cobra.Command {
	var flags targetFlags
	var r client.Creation
	var request string
	c := &cobra.Command{
		Use:   "new NAME",
		Short: "make a new key in the TPM",
		Long: "Makes a key whose private half never leaves this machine's TPM, and writes it to\n" +
			"NAME, and the public key to NAME.pub. You choose a PIN; wrong tries of it count\ntowards the TPM's lockout. RSA keys can take the TPM a minute." + fileNames,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if (request == "") != r.Request.Empty() {
				return usageError{errors.New("--certificate-request FILE and --subject or --alternative-name go together")}
			}
			var err error
			if request != "" {
				if request, err = filepath.Abs(request); err != nil {
					return err
				}
			}
			if request != "" {
				if err := writable(request, flags.Force); err != nil {
					return err
				}
			}
			if r.Target, err = flags.target(args[0]); err != nil {
				return err
			}
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				tell, done := s.progress()
				r.Progress = tell
				m, err := d.Create(c.Context(), r)
				done()
				if err != nil {
					return err
				}
				if request == "" {
					return s.made("Created", m)
				}
				return errors.Join(s.made("Created", m), writeRequest(request, m, flags.Force))
			})
		},
	}
	flags.add(c)
	c.Flags().StringVar(&r.Algorithm, "algorithm", "", "`kind` of key: "+strings.Join(algorithms, ", ")+" (default ecdsa-p256)")
	c.Flags().StringVar(&request, "certificate-request", "", "write a certificate request that the key signed to this `file`")
	requestFlags(c, &r.Request)
	// Only a flag that does not exist could make this an error.
	_ = c.RegisterFlagCompletionFunc("algorithm", cobra.FixedCompletions(algorithms, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// writable says early what would stop a file from being written after a key has
// been made.
func writable(path string, force bool) error {
	if _, err := os.Lstat(path); !force && !errors.Is(err, fs.ErrNotExist) {
		return hintedError{fmt.Errorf("%s is there already", path), "choose another name, or replace it with --force"}
	}
	if err := unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("%s cannot be written there: %w", path, err)
	}
	return nil
}

// writeRequest writes the certificate request of a key that is made already.
func writeRequest(path string, m client.Made, force bool) error {
	err := putFile(atomicfile.File{Path: path, Data: requestText(m.CertificateRequest), Perm: 0o644, Replace: force})
	if err != nil {
		return hintedError{fmt.Errorf("the key is made, but not the certificate request: %w", err),
			"keyringctl key request " + m.Path + " makes another one"}
	}
	return nil
}

func (s *session) keyImportCommand() *cobra.Command {
	var flags targetFlags
	var name string
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "make a TPM key of the private key in a file",
		Long: "Makes a TPM key file of the private key in FILE: OpenSSH's, PEM, PKCS #8,\n" +
			"PKCS #12, or what another machine or tool wrapped for this TPM. FILE stays as it\nis; the answer says how to retire it." + fileNames,
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			source, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			t, err := flags.target(name)
			if err != nil {
				return err
			}
			if _, err := os.Stat(source); errors.Is(err, fs.ErrNotExist) {
				return hintedError{fmt.Errorf("there is no file %s", source), "name the file of the private key"}
			}
			// What was wrapped for this TPM brings its PIN along, or none.
			if !c.Flags().Changed("no-pin") && wrapped(source) {
				t.NoPIN = true
			}
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				tell, done := s.progress()
				t.Progress = tell
				m, err := d.Import(c.Context(), source, t)
				done()
				if err != nil {
					return err
				}
				return s.made("Imported", m)
			})
		},
	}
	flags.add(c)
	c.Flags().StringVar(&name, "name", "", "the new `file` (default: FILE's name with .tpm)")
	return c
}

// wrapped reports whether the file is a TPM key file, whatever its kind.
func wrapped(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false // the daemon says why
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, maxFile))
	block, _ := pem.Decode(data)
	return block != nil && block.Type == "TSS2 PRIVATE KEY"
}

func (s *session) keyExportRequestCommand() *cobra.Command {
	var parent string
	c := &cobra.Command{
		Use:   "export-request",
		Short: "print what another machine needs to wrap a key for this one",
		Long: "Prints the public half of a storage key of this machine's TPM. keyringctl key\n" +
			"wrap-for, run on another machine, makes a file with it that only this TPM can\nimport. Nothing in it is secret; but it must arrive unchanged.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			handle, err := parseHandle(parent)
			if err != nil {
				return err
			}
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				request, err := d.Parent(c.Context(), handle)
				if err != nil {
					return err
				}
				if s.json {
					return s.printJSON(map[string]string{"request": string(request)})
				}
				_, err = s.Out.Write(request)
				return err
			})
		},
	}
	c.Flags().StringVar(&parent, "parent", "", "`handle` of the parent key: 0x81000001 (default: the owner's storage root key)")
	return c
}

func (s *session) keyWrapForCommand() *cobra.Command {
	var flags targetFlags
	var output string
	c := &cobra.Command{
		Use:   "wrap-for REQUEST FILE",
		Short: "wrap the private key in a file for another machine's TPM",
		Long: "Makes a file of the private key in FILE that only the TPM of another machine can\n" +
			"import, with keyringctl key import there: the one where keyringctl key\nexport-request printed REQUEST. FILE stays as it is.",
		Args: usage(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			request, err := s.readArgument(args[0], maxFile)
			if err != nil {
				return err
			}
			source, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			if output == "" {
				output = filepath.Base(source) + ".wrapped"
			}
			t := flags.Target
			if t.Path, err = filepath.Abs(output); err != nil {
				return err
			}
			return s.withDaemon(c.Context(), func(d *client.Client) error {
				tell, done := s.progress()
				t.Progress = tell
				m, err := d.Wrap(c.Context(), source, request, t)
				done()
				if err != nil {
					return err
				}
				return s.made("Wrapped", m)
			})
		},
	}
	flags.addCommon(c)
	c.Flags().StringVar(&output, "output", "", "the new `file` (default: FILE's name with .wrapped, here)")
	return c
}
