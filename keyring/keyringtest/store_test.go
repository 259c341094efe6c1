package keyringtest_test

import (
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

func TestStore(t *testing.T) {
	keyringtest.TestCollectionStore(t, func(t *testing.T, tpm keyring.Sealer) keyring.CollectionStore {
		s := keyringtest.NewStore()
		s.TPM = tpm
		return s
	})
}
