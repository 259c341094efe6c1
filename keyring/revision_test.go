package keyring_test

import (
	"crypto"
	"errors"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

func TestRevisionTellsOfReplacedFiles(t *testing.T) {
	keys := keyring.NewKeys(keyring.NewGate(nil))
	signer := newSigner(t)
	file := func(path string) keyring.Key {
		return keyringtest.NewFakeKey(signer, keyring.KindFile, "key", path)
	}
	revision := func() uint64 { return keys.List()[0].Revision }
	one := file("/one")
	keys.Replace("files", []keyring.Key{one})
	first := revision()
	if first == 0 {
		t.Fatal("a key with a file has revision 0")
	}
	keys.Replace("files", []keyring.Key{one})
	keys.Refresh()
	if got := revision(); got != first {
		t.Errorf("nothing happened, and the revision went from %d to %d", first, got)
	}
	added := keyringtest.NewFakeKey(signer, keyring.KindAdded, "key")
	keys.Replace("added", []keyring.Key{added})
	if got := revision(); got != first {
		t.Errorf("the key was added, too, and the revision went from %d to %d", first, got)
	}
	keys.Replace("files", []keyring.Key{file("/one")})
	second := revision()
	if second == first {
		t.Error("the file was replaced, and the revision stayed")
	}
	keys.Replace("more files", []keyring.Key{file("/two")})
	if revision() == second {
		t.Error("another file came, and the revision stayed")
	}
	keys.Replace("files", nil)
	keys.Replace("more files", nil)
	if got := revision(); got != 0 {
		t.Errorf("no file is left, and the revision is %d", got)
	}
}

func TestOnlyOneFrontEndMayUse(t *testing.T) {
	keys := keyring.NewKeys(keyring.NewGate(nil))
	signer := newSigner(t)
	added := keyringtest.NewFakeKey(signer, keyring.KindAdded, "key")
	added.KeyInfo.Only = "ssh-agent"
	// The promise binds the file's key, too, as long as the added one is there.
	keys.Replace("files", []keyring.Key{keyringtest.NewFakeKey(signer, keyring.KindFile, "key", "/key")})
	keys.Replace("added", []keyring.Key{added})
	sign := func(frontEnd string) error {
		_, err := keys.Sign(t.Context(), keyring.SignRequest{
			Caller: keyring.Caller{FrontEnd: frontEnd}, Key: added.KeyInfo.ID,
			Digest: []byte("message"), Opts: crypto.Hash(0),
		})
		return err
	}
	if err := sign("ssh-agent"); err != nil {
		t.Errorf("the one that may: %v", err)
	}
	for _, other := range []string{"D-Bus", "PKCS#11", ""} {
		if err := sign(other); !errors.Is(err, keyring.ErrDenied) {
			t.Errorf("%q: %v, want ErrDenied", other, err)
		}
	}
	keys.Replace("added", nil)
	if err := sign("D-Bus"); err != nil {
		t.Errorf("after the added one has gone: %v", err)
	}
}
