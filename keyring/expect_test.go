package keyring_test

import (
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// expecting counts how often a question was said to be near.
type expecting struct {
	*keyringtest.FakePrompter
	times int
}

func (e *expecting) Expect() { e.times++ }

// A question is expected where a key that was looked at would ask one.
func TestLookingAtKeysExpectsTheirQuestions(t *testing.T) {
	user := &expecting{FakePrompter: scripted(answer("1234"))}
	gate := keyring.NewGate(user)
	keys := keyring.NewKeys(gate)
	look := func(want int, when string) {
		t.Helper()
		user.times = 0
		keys.Expect(keys.List())
		if user.times != want {
			t.Errorf("%s: told %d times, want %d", when, user.times, want)
		}
	}
	look(0, "no keys")
	open := keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "open")
	keys.Replace("files", []keyring.Key{open})
	look(0, "a key that needs nothing")
	locked := keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "locked")
	locked.KeyInfo.NeedsAuth = true
	keys.Replace("files", []keyring.Key{open, locked})
	look(1, "a key with a passphrase")

	use := keyring.Use{ID: locked.Info().ID.String(), NeedsAuth: true}
	if err := gate.Use(t.Context(), use, (&bench{t: t}).check(nil)); err != nil {
		t.Fatal(err)
	}
	look(0, "its passphrase is remembered")
	gate.Lock()
	look(1, "it is forgotten")
	asking := keyringtest.NewFakeKey(newSigner(t), keyring.KindFile, "asking")
	asking.KeyInfo.Confirm = true
	keys.Replace("files", []keyring.Key{open, asking})
	look(1, "a key that asks for permission")
	keyring.NewKeys(keyring.NewGate(nil)).Expect([]keyring.KeyInfo{asking.Info()})
}
