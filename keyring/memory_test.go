package keyring_test

import (
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

func TestMemory(t *testing.T) {
	keyringtest.TestCollection(t, func(*testing.T) keyring.Collection { return keyring.NewMemory("session", "Session") })
}

func TestMemoryIsEmptyOnceCleared(t *testing.T) {
	m := keyring.NewMemory("session", "Session")
	value := secret.Copy([]byte("v"))
	defer value.Wipe()
	first, _, err := m.Create(keyring.NewItem{Secret: value}, false)
	if err != nil {
		t.Fatal(err)
	}
	m.Clear()
	if ids, err := m.Items(); err != nil || len(ids) != 0 {
		t.Errorf("items %q, error %v", ids, err)
	}
	if again, _, _ := m.Create(keyring.NewItem{Secret: value}, false); again == first {
		t.Errorf("ID %s is used a second time", again)
	}
}
