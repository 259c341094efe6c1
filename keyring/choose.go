package keyring

import (
	"context"
	"crypto"
	"fmt"
	"io"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

// maxChoices is how often the user is asked again for a value that can be used.
const maxChoices = 3

// Choose asks the user to choose an authorization value of at most limit bytes
// for u.Subject, and returns it, never empty: the caller's to Wipe. Of u, ID
// stands for what is asked about, so that nobody is pestered; nothing is
// remembered. u.Automatic is called, before Choose returns, if the user wishes
// not to be asked for the value later. Errors are ctx's, or wrap ErrDenied or
// ErrUnavailable.
func (g *Gate) Choose(ctx context.Context, u Use, limit int) (secret.Bytes, error) {
	warning := ""
	for range maxChoices {
		answer, err := g.ask(ctx, u, prompt.Question{
			Kind: prompt.NewPassphrase, PIN: u.PIN, Warning: warning, Automatic: u.Automatic != nil})
		if err != nil {
			return secret.Bytes{}, err
		}
		n := answer.Passphrase.Len()
		if n > 0 && n <= limit {
			if answer.Automatic && u.Automatic != nil {
				u.Automatic()
			}
			return answer.Passphrase, nil
		}
		answer.Passphrase.Wipe()
		warning = "It must not be empty."
		if n > 0 {
			warning = fmt.Sprintf("It may have at most %d characters, fewer with letters such as ä.", limit)
		}
	}
	return secret.Bytes{}, &refusal{"nothing that can be used was chosen"}
}

// Permit asks the user whether something may be done, now and this once: no
// approval is looked for and none is left. warning says what cannot be undone.
// Errors are ctx's, or wrap ErrDenied or ErrUnavailable.
func (g *Gate) Permit(ctx context.Context, u Use, warning string) error {
	answer, err := g.ask(ctx, u, prompt.Question{Kind: prompt.Confirm, Warning: warning})
	answer.Passphrase.Wipe()
	return err
}

// Signer returns a key as a crypto.Signer, for those who take one, such as
// crypto/x509: each signature is a [Keys.Sign] with r's caller, key, reason and
// scope, and ends with ctx.
func (k *Keys) Signer(ctx context.Context, r SignRequest) (crypto.Signer, error) {
	info, err := k.Find(r.Key)
	if err != nil {
		return nil, err
	}
	return &signer{ctx, k, r, info.Public}, nil
}

type signer struct {
	ctx    context.Context // this is one request's
	keys   *Keys
	r      SignRequest
	public crypto.PublicKey
}

func (s *signer) Public() crypto.PublicKey { return s.public }

func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	r := s.r
	r.Digest, r.Opts = digest, opts
	return s.keys.Sign(s.ctx, r)
}
