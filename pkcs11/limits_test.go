package pkcs11

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// TestSecretsGoWithTheirSession: the keys of a session that ends are nowhere any
// more, and those of others stay.
func TestSecretsGoWithTheirSession(t *testing.T) {
	mine, other := secret.Copy([]byte("mine")), secret.Copy([]byte("another's"))
	defer other.Wipe()
	n := &connection{secrets: map[uint64]*secretKey{
		7: {handle: 7, session: 1, value: mine},
		8: {handle: 8, session: 2, value: other},
	}}
	n.forgetLocked(&session{id: 1})
	if mine.Len() != 0 {
		t.Error("the value is still there")
	}
	if len(n.secrets) != 1 || n.secrets[8] == nil || other.Len() == 0 {
		t.Errorf("left: %v", n.secrets)
	}
}

// A fullFolder has every name already.
type fullFolder struct {
	keyring.Maker
	tried []string
}

func (f *fullFolder) Create(_ context.Context, r keyring.CreateRequest) (keyring.Made, error) {
	if len(f.tried) > 2*maxNames {
		return keyring.Made{}, errors.New("tried for ever")
	}
	f.tried = append(f.tried, r.Path)
	return keyring.Made{}, fs.ErrExist
}

// TestNamesHaveAnEnd: a program that makes keys of one label is told at last that
// the name is taken.
func TestNamesHaveAnEnd(t *testing.T) {
	full := &fullFolder{}
	q := &request{connection: &connection{server: &Server{maker: full}}}
	if _, err := q.make(t.Context(), keyring.CreateRequest{Target: keyring.Target{Path: "vpn"}}); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if len(full.tried) != maxNames || !slices.Equal(full.tried[:3], []string{"vpn", "vpn-2", "vpn-3"}) {
		t.Errorf("tried %d: %q", len(full.tried), full.tried)
	}
}
