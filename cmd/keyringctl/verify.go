package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/tpm/attest"
)

// A proof is what a statement was found to say.
type proof struct {
	ID                 string `json:"id"`
	Algorithm          string `json:"algorithm"`
	Public             string `json:"public"` // PEM
	KeyName            string `json:"key_name"`
	AttestationKeyName string `json:"attestation_key_name"`
	Pinned             bool   `json:"pinned"` // the attestation key is the one that was named
	Nonce              string `json:"nonce"`  // hex
	NeedsPolicy        bool   `json:"needs_policy"`
	LockoutProtected   bool   `json:"lockout_protected"`

	key crypto.PublicKey
}

func (s *session) keyVerifyAttestationCommand() *cobra.Command {
	var nonce, id, public string
	var o attest.Options
	c := &cobra.Command{
		Use:   "verify-attestation FILE",
		Short: "check a statement that key attest printed",
		Long: "Checks what keyringctl key attest printed, without a TPM or keyringd; - is\n" +
			"standard input. It proves that the holder of the attestation key says that the key\n" +
			"is in one TPM with it and cannot leave. Whose TPM that is, you know only if you\n" +
			"name the attestation key as you learned it before, with --attestation-key.",
		Args: usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			var err error
			if o.Nonce, err = parseNonce(nonce); err != nil {
				return err
			}
			if nonce == "" {
				o.Nonce = nil
			}
			if want, err := hex.DecodeString(id); id != "" && (err != nil || len(want) != sha256.Size) {
				return usageError{fmt.Errorf("--id: %q is not a whole key ID, 64 hex digits", id)}
			}
			var is func(crypto.PublicKey) bool
			if public != "" {
				if is, err = s.readPublic(public); err != nil {
					return err
				}
			}
			data, err := s.readArgument(args[0], attest.MaxSize)
			if err != nil {
				return err
			}
			p, err := verify(data, o)
			if err != nil {
				return err
			}
			if id != "" && !strings.EqualFold(p.ID, id) {
				return fmt.Errorf("%w: it is about key %s", attest.ErrInvalid, p.ID)
			}
			if is != nil && !is(p.key) {
				return fmt.Errorf("%w: it is about key %s, and not the one in %s", attest.ErrInvalid, p.ID, public)
			}
			return s.printProof(p)
		},
	}
	c.Flags().StringVar(&nonce, "nonce", "", "the `hex` digits that were handed to key attest")
	c.Flags().StringVar(&id, "id", "", "the `ID` of the key that it must be about")
	c.Flags().StringVar(&public, "public", "", "the `file` of the public key that it must be about: OpenSSH's line, or PEM")
	c.Flags().StringVar(&o.AttestationKey, "attestation-key", "", "the `name`, in hex, that the machine's attestation key must have")
	return c
}

// readPublic returns what tells whether a key is the one in a public key file.
func (s *session) readPublic(name string) (func(crypto.PublicKey) bool, error) {
	data, err := s.readArgument(name, maxFile)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(data); block != nil {
		return func(k crypto.PublicKey) bool {
			der, err := x509.MarshalPKIXPublicKey(k)
			return err == nil && bytes.Equal(der, block.Bytes)
		}, nil
	}
	if line, ok := pubfile.Parse(data); ok {
		return func(k crypto.PublicKey) bool { return bytes.Equal(pubfile.Wire(k), line.Blob) }, nil
	}
	return nil, hintedError{fmt.Errorf("%s holds no public key", name), "name a NAME.pub, or what keyringctl key public --pem printed"}
}

func verify(data []byte, o attest.Options) (proof, error) {
	bundle, err := attest.Parse(data)
	if err != nil {
		return proof{}, hintedError{err, "FILE is what keyringctl key attest printed"}
	}
	st, err := attest.Verify(bundle, o)
	if err != nil {
		return proof{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(st.Key)
	if err != nil {
		return proof{}, err
	}
	sum := sha256.Sum256(der)
	return proof{
		key: st.Key,
		ID:  hex.EncodeToString(sum[:]), Algorithm: algorithmOf(st.Key),
		Public:  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		KeyName: st.KeyName, AttestationKeyName: st.AttestationKeyName, Pinned: st.Pinned,
		Nonce: hex.EncodeToString(st.Nonce), NeedsPolicy: st.NeedsPolicy, LockoutProtected: st.LockoutProtected,
	}, nil
}

// algorithmOf is what the daemon calls that kind of key.
func algorithmOf(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return fmt.Sprintf("ecdsa-p%d", k.Curve.Params().BitSize)
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", k.N.BitLen())
	}
	return "unknown"
}

func (s *session) printProof(p proof) error {
	if s.json {
		return s.printJSON(p)
	}
	yes := map[bool]string{true: "yes", false: "no"}
	whose := "the one that you named"
	if !p.Pinned {
		whose = "not checked: compare its name with what you know of the machine"
	}
	if p.Nonce == "" {
		p.Nonce = "none: it may be an old statement"
	}
	return s.printFacts("The statement", "holds", "Key ID", p.ID, "Algorithm", p.Algorithm, "Key's name", p.KeyName,
		"Attestation key", p.AttestationKeyName, "Whose TPM", whose, "Nonce", p.Nonce,
		"Needs a policy", yes[p.NeedsPolicy], "Wrong PINs lock", yes[p.LockoutProtected])
}
