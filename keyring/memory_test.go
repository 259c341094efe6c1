package keyring_test

import (
	"errors"
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

// No program can have all the memory there is.
func TestMemoryHasAnEnd(t *testing.T) {
	m := keyring.NewMemory("session", "Session")
	t.Cleanup(m.Clear)
	value := secret.New(8 << 20)
	defer value.Wipe()
	small := secret.Copy([]byte("v"))
	defer small.Wipe()
	var ids []string
	for {
		id, _, err := m.Create(keyring.NewItem{Secret: value}, false)
		if errors.Is(err, keyring.ErrUnavailable) {
			break
		}
		if ids = append(ids, id); err != nil || len(ids) > 100 {
			t.Fatalf("%d of them, %v", len(ids), err)
		}
	}
	for _, id := range ids[1:] {
		if err := m.Change(id, keyring.ItemChange{Secret: &small}); err != nil {
			t.Fatal(err)
		}
		if err := m.Change(id, keyring.ItemChange{Secret: &value}); err != nil {
			t.Fatal(err)
		}
	}
	extra, _, err := m.Create(keyring.NewItem{Secret: small}, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Change(extra, keyring.ItemChange{Secret: &value}); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("change: %v", err)
	}
	if err := m.Delete(ids[0]); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the same one
		if _, _, err := m.Create(keyring.NewItem{Secret: value, Attributes: map[string]string{"a": "b"}}, true); err != nil {
			t.Fatal(err)
		}
	}
	m.Clear()
	for range ids {
		if _, _, err := m.Create(keyring.NewItem{Secret: value}, false); err != nil {
			t.Fatal(err)
		}
	}
}
