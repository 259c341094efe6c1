package keyring

import (
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
)

// TestMemoryWipesWhatItDrops: a secret that is replaced or deleted is nowhere any
// more.
func TestMemoryWipesWhatItDrops(t *testing.T) {
	m := NewMemory("session", "Session")
	t.Cleanup(m.Clear)
	one, two := secret.Copy([]byte("one")), secret.Copy([]byte("two"))
	defer one.Wipe()
	defer two.Wipe()
	attributes := map[string]string{"user": "mia"}
	var id string
	create := func(replace bool) {
		t.Helper()
		var err error
		if id, _, err = m.Create(NewItem{Attributes: attributes, Secret: one}, replace); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		drop func()
	}{
		{"another in its place", func() { create(true) }},
		{"another secret", func() {
			if err := m.Change(id, ItemChange{Secret: &two}); err != nil {
				t.Fatal(err)
			}
		}},
		{"deleted", func() {
			if err := m.Delete(id); err != nil {
				t.Fatal(err)
			}
		}},
		{"cleared", m.Clear},
	} {
		create(false)
		old := m.items[id].secret
		if old.Len() != one.Len() {
			t.Fatalf("%s: a secret of %d bytes", c.name, old.Len())
		}
		if c.drop(); old.Len() != 0 {
			t.Errorf("%s: the old secret is still there", c.name)
		}
		m.Clear()
	}
	if one.Len() == 0 || two.Len() == 0 {
		t.Error("what was borrowed is wiped")
	}
}
