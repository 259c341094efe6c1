package tpmkeys

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
	"github.com/keyringd/keyringd/tpm/keyfile"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// Three wrong PINs would lock this TPM. The count is told, and an empty answer
// costs nothing.
func TestTries(t *testing.T) {
	m := tpmtest.Start(t)
	d := dir(t)
	guarded, free := filepath.Join(d, "guarded"), filepath.Join(d, "free")
	write(t, guarded, m.OpenSSLKey(t, tpmtest.EC256, "right", 0))
	write(t, free, m.ToolKey(t, tpmtest.ToolKey{PIN: "right"}))
	relay := m.Relay()
	s := serveWith(t, d, device(t, relay.Address()), io.Discard)
	digest := sha256.Sum256(nil)
	try := func(path, pin string) error {
		b := secret.Copy([]byte(pin))
		defer b.Wipe()
		_, err := s.key(t, path).Sign(t.Context(), b, digest[:], crypto.SHA256)
		return err
	}
	left := func() int {
		tries, err := s.key(t, guarded).Tries(t.Context())
		must(t, err)
		if !tries.Limited {
			t.Error("not limited")
		}
		return tries.Left
	}
	if tries, err := s.key(t, free).Tries(t.Context()); err != nil || tries.Limited || relay.Total() != 0 {
		t.Errorf("an exempt key: %+v, %v, %d commands", tries, err, relay.Total())
	}
	all := left()
	sent := relay.Total()
	if err := try(guarded, ""); !errors.Is(err, keyring.ErrAuthFailed) || left() != all || relay.Total() != sent {
		t.Errorf("an empty PIN: %v, %d of %d left", err, left(), all)
	}
	// Given twice it is meant, and tried.
	if err := try(guarded, ""); !errors.Is(err, keyring.ErrAuthFailed) || left() != all-1 {
		t.Errorf("an empty PIN again: %v, %d of %d left", err, left(), all)
	}
	all = left()
	if err := try(guarded, "wrong"); !errors.Is(err, keyring.ErrAuthFailed) || left() != all-1 {
		t.Errorf("a wrong PIN: %v, %d of %d left", err, left(), all)
	}
	for left() > 0 {
		if err := try(guarded, "wrong"); err == nil {
			t.Fatal("signed with a wrong PIN")
		}
	}
	sent = relay.Total()
	var lockout *keyring.LockoutError
	if err := try(guarded, "right"); !errors.As(err, &lockout) || relay.Total() != sent {
		t.Errorf("locked out: %v, %d commands", err, relay.Total()-sent)
	} else if wait := time.Until(lockout.Until); wait <= 0 || wait > 24*time.Hour {
		t.Errorf("wait %v", wait)
	}
	if tries, err := s.key(t, guarded).Tries(t.Context()); err != nil || tries.Left != 0 || tries.Wait <= 0 {
		t.Errorf("locked out: %+v, %v", tries, err)
	}
	must(t, try(free, "right")) // the exempt key goes on
	if relay.Contains([]byte("right")) {
		t.Error("the PIN was on the bus")
	}
}

// Some writers turn emptyAuth round. Where the file says that there is no PIN,
// and the TPM that there is one, the user is asked after all; where the file
// asks for a PIN and there is none, an empty answer does in the end.
func TestFileIsWrongAboutPIN(t *testing.T) {
	m := tpmtest.Start(t)
	turned := func(pin string) []byte {
		f, err := keyfile.Parse(m.OpenSSLKey(t, tpmtest.EC256, pin, 0))
		must(t, err)
		empty := pin != ""
		f.EmptyAuth = &empty
		out, err := f.PEM()
		must(t, err)
		return out
	}
	// Made before a device of ours fills the TPM.
	for pin, pem := range map[string][]byte{"1234": turned("1234"), "": turned("")} {
		d := dir(t)
		write(t, filepath.Join(d, "k"), pem)
		prompter := &keyringtest.FakePrompter{Default: func(prompt.Question) keyringtest.Reply { return keyringtest.Reply{Passphrase: pin} }}
		keys := keyring.NewKeys(keyring.NewGate(prompter))
		f, err := folder.Watch(t.Context(), folder.Options{Dirs: []string{d}}, New(device(t, m.Address()), keys, nil))
		must(t, err)
		t.Cleanup(func() { <-f.Done() })
		digest := sha256.Sum256(nil)
		sign := func() error {
			_, err := keys.Sign(t.Context(), keyring.SignRequest{Key: keys.List()[0].ID, Digest: digest[:], Opts: crypto.SHA256})
			return err
		}
		must(t, sign())
		asked := len(prompter.Questions())
		if asked == 0 || !keys.List()[0].NeedsAuth {
			t.Errorf("PIN %q: %d questions, and the key is listed as needing none", pin, asked)
		}
		must(t, f.Rescan(t.Context()))
		must(t, sign())
		if again := len(prompter.Questions()) - asked; pin != "" && again != 0 {
			t.Errorf("PIN %q: asked %d times more", pin, again)
		}
	}
}

// Whoever signs first on a TPM that nobody has looked at may be on the last try.
func TestLastTryIsWithheld(t *testing.T) {
	m := tpmtest.Start(t)
	d := dir(t)
	path := filepath.Join(d, "k")
	write(t, path, m.OpenSSLKey(t, tpmtest.EC256, "right", 0))
	dev := device(t, m.Address())
	s := serveWith(t, d, dev, io.Discard)
	digest := sha256.Sum256(nil)
	wrong, right := secret.Copy([]byte("wrong")), secret.Copy([]byte("right"))
	k := s.key(t, path)
	tries, err := k.Tries(t.Context())
	must(t, err)
	for range tries.Left - 1 {
		_, _ = k.Sign(t.Context(), wrong, digest[:], crypto.SHA256)
	}
	fresh := serveWith(t, d, device(t, m.Address()), io.Discard)
	if _, err := fresh.key(t, path).Sign(t.Context(), right, digest[:], crypto.SHA256); !errors.Is(err, keyring.ErrTryWithheld) {
		t.Errorf("error %v", err)
	}
}
