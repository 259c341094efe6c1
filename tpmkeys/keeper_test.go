package tpmkeys

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
	"github.com/keyringd/keyringd/prompt"
)

func TestChangePIN(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "old")
	change := func(noPIN bool) error {
		_, err := w.ChangeAuth(t.Context(), keyring.ChangeAuthRequest{Caller: by, Key: made.ID, NoPIN: noPIN})
		return err
	}
	// A PIN that is remembered does not do.
	w.works(made.ID, "old")
	w.answers("old")
	digest := sha256.Sum256(nil)
	_, err := w.Keys.Sign(t.Context(), keyring.SignRequest{Caller: by, Key: made.ID, Digest: digest[:], Opts: crypto.SHA256})
	must(t, err)
	w.user.Reset()
	before, err := os.ReadFile(w.path("id"))
	must(t, err)
	w.answers("wrong", "old", "new")
	must(t, change(false))
	w.asked(prompt.Passphrase, prompt.Passphrase, prompt.NewPassphrase)
	w.works(made.ID, "new")
	if got := listing(t, w.dir); !slices.Equal(got, []string{"id", "id.pub"}) {
		t.Errorf("there is %q", got)
	}
	w.answers("new")
	must(t, change(true))
	w.asked(prompt.Passphrase)
	w.works(made.ID, "")
	if err := change(true); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("there is no PIN to remove: %v", err)
	}
	w.answers("third")
	must(t, change(false))
	w.asked(prompt.NewPassphrase)
	w.works(made.ID, "third")

	// What came before is said to work on, and does.
	write(t, w.path("copy"), before)
	must(t, w.Rescan(t.Context()))
	if err := change(false); !errors.Is(err, keyring.ErrUnsupported) || !strings.Contains(err.Error(), w.path("copy")) {
		t.Errorf("which of two: %v", err)
	}
	w.answers("old", "fourth")
	got, err := w.ChangeAuth(t.Context(), keyring.ChangeAuthRequest{Caller: by, Key: made.ID, Path: w.path("copy")})
	must(t, err)
	if text := strings.Join(got.Notes, " "); !strings.Contains(text, "old PIN") || !strings.Contains(text, w.path("id")) {
		t.Errorf("notes %q", got.Notes)
	}
}

func TestChangePINRefused(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "right")
	r := keyring.ChangeAuthRequest{Caller: by, Key: made.ID}
	// The Gate keeps the last try.
	w.answers("wrong", "wrong", "wrong")
	if _, err := w.ChangeAuth(t.Context(), r); !errors.Is(err, keyring.ErrLockedOut) {
		t.Errorf("wrong PINs: %v", err)
	}
	l, err := w.Device.Lockout(t.Context())
	if err != nil || l.Left() != 1 {
		t.Errorf("%d tries left, %v", l.Left(), err)
	}
	w.sim.Tool(t, t.TempDir(), "tpm2_dictionarylockout", "-Q", "-c")
	w.Device.Forget()
	w.user.Reset()
	w.Gate.Lock()

	w.answers("right")
	w.user.Script(keyringtest.Reply{Err: prompt.ErrDismissed})
	if _, err := w.ChangeAuth(t.Context(), r); !errors.Is(err, keyring.ErrDenied) {
		t.Errorf("no new PIN: %v", err)
	}
	if _, err := w.ChangeAuth(t.Context(), keyring.ChangeAuthRequest{Caller: by}); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("no key: %v", err)
	}
	w.user.Reset()
	// Somebody puts another file there while the user thinks.
	w.user.Default = func(q prompt.Question) keyringtest.Reply {
		if q.Kind == prompt.NewPassphrase {
			write(t, w.path("id"), sample(t, "openssl-p384.pem"))
		}
		return keyringtest.Reply{Passphrase: "right"}
	}
	if _, err := w.ChangeAuth(t.Context(), r); !errors.Is(err, keyring.ErrUnavailable) || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("replaced meanwhile: %v", err)
	}
	if got, err := os.ReadFile(w.path("id")); err != nil || !bytes.Equal(got, sample(t, "openssl-p384.pem")) {
		t.Errorf("the other file is gone: %v", err)
	}

}

func TestSetLabel(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "")
	label := func() string {
		info, err := w.Keys.Find(made.ID)
		must(t, err)
		return info.Label
	}
	set := func(s string) error {
		return w.SetLabel(t.Context(), keyring.LabelRequest{Caller: by, Key: made.ID, Label: s})
	}
	must(t, set("work laptop"))
	if label() != "work laptop" {
		t.Errorf("label %q", label())
	}
	must(t, set(""))
	if label() != "id" {
		t.Errorf("label %q", label())
	}
	must(t, os.Remove(w.path("id.pub")))
	must(t, set("again\nand again"))
	if !strings.HasPrefix(label(), "again") || strings.Contains(label(), "\n") {
		t.Errorf("label %q", label())
	}
	other, err := os.ReadFile(w.path("id.pub"))
	must(t, err)
	write(t, w.path("id.pub"), append([]byte("not "), other...))
	if err := set("x"); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("over another's file: %v", err)
	}
}

// The public half of another key stays what it is, whatever its name says.
func TestAnotherKeysPublicHalf(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "")
	w.create("other", "")
	other, err := os.ReadFile(w.path("other.pub"))
	must(t, err)
	write(t, w.path("id.pub"), other)
	if err := w.SetLabel(t.Context(), keyring.LabelRequest{Caller: by, Key: made.ID, Label: "x"}); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("label: %v", err)
	}
	w.answers("")
	must(t, w.Remove(t.Context(), keyring.RemoveRequest{Caller: by, Key: made.ID}))
	if got, err := os.ReadFile(w.path("id.pub")); err != nil || !bytes.Equal(got, other) {
		t.Errorf("%q, %v", got, err)
	}
	if got := listing(t, w.dir); !slices.Equal(got, []string{"id.pub", "other", "other.pub"}) {
		t.Errorf("there is %q", got)
	}
}

func TestRemove(t *testing.T) {
	w := newWorkshop(t)
	made := w.create("id", "1234")
	data, err := os.ReadFile(w.path("id"))
	must(t, err)
	write(t, w.path("copy"), data)
	must(t, w.Rescan(t.Context()))
	remove := func(path string) error {
		return w.Remove(t.Context(), keyring.RemoveRequest{Caller: by, Key: made.ID, Path: path})
	}
	w.user.Script(keyringtest.Reply{Err: prompt.ErrDismissed})
	if err := remove(""); !errors.Is(err, keyring.ErrDenied) {
		t.Errorf("dismissed: %v", err)
	}
	if q := w.asked(prompt.Confirm)[0]; !strings.Contains(q.Warning, "nothing brings it back") || !strings.Contains(q.Warning, "copy, id") {
		t.Errorf("asked %+v", q)
	}
	if len(listing(t, w.dir)) != 3 {
		t.Fatal("removed all the same")
	}
	w.answers("")
	must(t, remove(w.path("copy")))
	if q := w.asked(prompt.Confirm)[0]; !strings.Contains(q.Warning, "remains") {
		t.Errorf("asked %+v", q)
	}
	w.works(made.ID, "1234")
	if err := remove("/etc/passwd"); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("another file: %v", err)
	}
	w.answers("")
	must(t, remove(""))
	if got := listing(t, w.dir); len(got) != 0 {
		t.Errorf("there is %q", got)
	}
	if _, err := w.Keys.Find(made.ID); !errors.Is(err, keyring.ErrNotFound) {
		t.Errorf("still listed: %v", err)
	}
}
