package tpmkeys

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm/attest"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// held is a TPM key file as it is on disk now.
type held struct {
	path string
	data []byte // not secret: only the TPM can do anything with it
	file *keyfile.File
}

// holds reads the file at path, which must be a TPM key file of the key id.
func holds(path string, id keyring.KeyID) (held, error) {
	b, err := load(path, true)
	if err != nil {
		return held{}, err
	}
	defer b.Wipe()
	h := held{path: path}
	b.Use(func(b []byte) { h.data = bytes.Clone(b) })
	if h.file, err = keyfile.Parse(h.data); err != nil {
		return held{}, problem(keyring.ErrUnsupported, "%s: %w", path, err)
	}
	pub, err := h.file.PublicKey()
	if err != nil {
		return held{}, problem(keyring.ErrUnsupported, "%s: %w", path, err)
	}
	if found, err := keyring.NewKeyID(pub); err != nil || found != id {
		return held{}, problem(keyring.ErrUnavailable, "%s holds another key by now", path)
	}
	return h, nil
}

// files returns the TPM key files of a key, those that asked for if path is not
// empty.
func (m *Maker) files(id keyring.KeyID, path string) (keyring.KeyInfo, []held, error) {
	info, err := m.Keys.Find(id)
	if err != nil {
		return info, nil, err
	}
	paths := info.Paths
	if path != "" {
		if !slices.Contains(info.Paths, path) {
			return info, nil, problem(keyring.ErrNotFound, "%s is not one of the key's files, which are %s", path, strings.Join(info.Paths, ", "))
		}
		paths = []string{path}
	}
	var list []held
	var first error
	for _, p := range paths {
		h, err := holds(p, id)
		if err != nil {
			first = errors.Join(first, err)
			continue
		}
		list = append(list, h)
	}
	if len(list) == 0 && info.Kind != keyring.KindTPM {
		return info, nil, problem(keyring.ErrUnsupported, "%s is no key of the TPM", info.Label)
	}
	if len(list) == 0 {
		return info, nil, first
	}
	return info, list, nil
}

// one returns the key's file at path, or its only one.
func (m *Maker) one(id keyring.KeyID, path string) (keyring.KeyInfo, held, error) {
	info, list, err := m.files(id, path)
	if err != nil {
		return info, held{}, err
	}
	if len(list) > 1 {
		var paths []string
		for _, h := range list {
			paths = append(paths, h.path)
		}
		return info, held{}, problem(keyring.ErrUnsupported, "the key is in several files: %s; hint: name one of them", strings.Join(paths, ", "))
	}
	return info, list[0], nil
}

// key makes a Key of a file for one use, to be closed.
func (m *Maker) key(h held, info keyring.KeyInfo) (*Key, error) {
	dev, err := m.device()
	if err != nil {
		return nil, err
	}
	k, err := dev.Key(h.file)
	if err != nil {
		return nil, translate(h.path, err)
	}
	key := &Key{path: h.path, dev: dev, key: k, counted: h.file.DAProtected(), changed: func() {}}
	info.NeedsAuth = h.file.NeedsAuth()
	key.info.Store(&info)
	return key, nil
}

// ChangeAuth gives a key another PIN; see keyring.Keeper.
func (m *Maker) ChangeAuth(ctx context.Context, r keyring.ChangeAuthRequest) (keyring.Made, error) {
	dev, err := m.device()
	if err != nil {
		return keyring.Made{}, err
	}
	info, h, err := m.one(r.Key, r.Path)
	if err != nil {
		return keyring.Made{}, err
	}
	release, err := m.claim(h.path)
	if err != nil {
		return keyring.Made{}, err
	}
	defer release()
	if r.NoPIN && !h.file.NeedsAuth() {
		return keyring.Made{}, problem(keyring.ErrUnsupported, "%s has no PIN", info.Label)
	}
	tell(r.Progress, keyring.ProgressAsking)
	old, err := m.oldAuth(ctx, r, info, h)
	if err != nil {
		return keyring.Made{}, err
	}
	defer old.Wipe()
	var fresh secret.Bytes
	if !r.NoPIN {
		use := keyring.Use{ID: "new " + h.path, Subject: info.Label, PIN: true, Caller: r.Caller, Reason: "the key's new PIN"}
		if fresh, err = m.Gate.Choose(ctx, use, maxPIN); err != nil {
			return keyring.Made{}, err
		}
		defer fresh.Wipe()
	}
	tell(r.Progress, keyring.ProgressMaking)
	file, err := dev.ChangeAuth(ctx, h.file, old, fresh)
	if err != nil {
		return keyring.Made{}, translate(h.path, err)
	}
	if err := ctx.Err(); err != nil {
		return keyring.Made{}, err
	}
	tell(r.Progress, keyring.ProgressWriting)
	if err := m.replace(h, file); err != nil {
		return keyring.Made{}, err
	}
	m.Gate.Forget(r.Key.String())
	made := keyring.Made{ID: info.ID, Public: info.Public, Path: h.path, Notes: changeNotes(h, info, fresh.Len() > 0)}
	m.done(ctx, "key's PIN changed", r.Caller, made)
	return made, nil
}

// oldAuth asks for the PIN that the key has, and has the TPM judge it.
func (m *Maker) oldAuth(ctx context.Context, r keyring.ChangeAuthRequest, info keyring.KeyInfo, h held) (secret.Bytes, error) {
	if !h.file.NeedsAuth() {
		return secret.Bytes{}, nil
	}
	key, err := m.key(h, info)
	if err != nil {
		return secret.Bytes{}, err
	}
	defer key.key.Close()
	// Under a name of its own: whoever finds the PIN remembered may use the key,
	// but not change it.
	use := keyring.Use{
		ID: "change " + r.Key.String(), Subject: info.Label, NeedsAuth: true, PIN: true, Caller: r.Caller,
		Reason: "to change the key's PIN", Guard: key,
	}
	var old secret.Bytes
	err = m.Gate.Use(ctx, use, func(auth secret.Bytes) error {
		hash := key.key.Hash()
		digest := make([]byte, hash.Size())
		_, _ = rand.Read(digest)
		if _, err := key.Sign(ctx, auth, digest, hash); err != nil {
			return err
		}
		old = auth.Clone()
		return nil
	})
	m.Gate.Forget(use.ID)
	if err != nil {
		old.Wipe()
		return secret.Bytes{}, err
	}
	return old, nil
}

// replace puts a new file in place of the one that was read, if that is still
// there.
func (m *Maker) replace(h held, file *keyfile.File) error {
	data, err := file.PEM()
	if err != nil {
		return translate(h.path, err)
	}
	now, err := load(h.path, true)
	if err != nil {
		return err
	}
	same := false
	now.Use(func(b []byte) { same = bytes.Equal(b, h.data) })
	now.Wipe()
	if !same {
		return problem(keyring.ErrUnavailable, "%s was changed by somebody else meanwhile, and is left as it is", h.path)
	}
	return m.put(atomicfile.File{Path: h.path, Data: data, Perm: 0o600, Replace: true})
}

// changeNotes says what another PIN does not do.
func changeNotes(h held, info keyring.KeyInfo, hasPIN bool) []string {
	notes := []string{fmt.Sprintf("Copies of %s from before, in backups for instance, still work with the old PIN in this TPM.", h.path)}
	if !h.file.NeedsAuth() {
		notes[0] = fmt.Sprintf("Copies of %s from before, in backups for instance, still work without a PIN in this TPM.", h.path)
	}
	var others []string
	for _, p := range info.Paths {
		if p != h.path {
			others = append(others, p)
		}
	}
	if len(others) > 0 {
		notes = append(notes, "The same key is also in "+strings.Join(others, ", ")+", as it was.")
	}
	switch {
	case hasPIN && !h.file.DAProtected():
		notes = append(notes, "The key was made without protection against guessing, and that cannot be changed: choose a PIN that withstands it, or make a new key with a PIN.")
	case !hasPIN && h.file.DAProtected():
		notes = append(notes, "The key was made with protection against guessing, and that cannot be changed: wrong tries for other keys can still lock it for a while.")
	}
	return notes
}

// SetLabel writes a key's label beside it; see keyring.Keeper.
func (m *Maker) SetLabel(ctx context.Context, r keyring.LabelRequest) error {
	info, err := m.Keys.Find(r.Key)
	if err != nil {
		return err
	}
	switch {
	case len(info.Paths) == 0:
		return problem(keyring.ErrUnsupported, "%s is in no file that a label could stand beside", info.Label)
	case r.Path == "":
		r.Path = info.Paths[0]
	case !slices.Contains(info.Paths, r.Path):
		return problem(keyring.ErrNotFound, "%s is not one of the key's files, which are %s", r.Path, strings.Join(info.Paths, ", "))
	}
	made, err := describe(info.Public, r.Path, r.Label)
	if err != nil {
		return err
	}
	release, err := m.claim(r.Path)
	if err != nil {
		return err
	}
	defer release()
	there, err := beside(r.Path, info)
	if err != nil {
		return err
	}
	if err := m.put(atomicfile.File{Path: made.PublicPath, Data: made.PublicLine, Perm: 0o644, Replace: there}); err != nil {
		return err
	}
	m.done(ctx, "key's label changed", r.Caller, made)
	return nil
}

// beside says whether the public key file beside a key is there. It is an error
// if that is another key's, or anything else.
func beside(path string, info keyring.KeyInfo) (bool, error) {
	data, err := os.ReadFile(path + pubfile.Suffix)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, disk(err)
	}
	if p, ok := pubfile.Parse(data); !ok || !bytes.Equal(p.Blob, pubfile.Wire(info.Public)) {
		return false, problem(keyring.ErrUnsupported, "%s does not hold this key's public half", path+pubfile.Suffix)
	}
	return true, nil
}

// Remove deletes a key's files; see keyring.Keeper.
func (m *Maker) Remove(ctx context.Context, r keyring.RemoveRequest) error {
	info, list, err := m.files(r.Key, r.Path)
	if err != nil {
		return err
	}
	var names, paths []string
	for _, h := range list {
		release, err := m.claim(h.path)
		if err != nil {
			return err
		}
		defer release()
		paths = append(paths, h.path)
		names = append(names, filepath.Base(h.path))
	}
	warning := fmt.Sprintf("%s will be deleted. Its private key is in the TPM file alone: nothing brings it back, and whatever it opens stays shut unless another key opens it.", strings.Join(names, ", "))
	if len(info.Paths) > len(paths) {
		warning = fmt.Sprintf("%s will be deleted. The key remains in its other files.", strings.Join(names, ", "))
	}
	use := keyring.Use{ID: "remove " + r.Key.String(), Subject: info.Label, Caller: r.Caller, Reason: "to delete the key for ever"}
	if err := m.Gate.Permit(ctx, use, warning); err != nil {
		return err
	}
	for _, h := range list {
		if err := m.remove(h, info); err != nil {
			return err
		}
		m.done(ctx, "key removed", r.Caller, keyring.Made{Path: h.path})
	}
	return nil
}

// remove deletes one file that still is what the user was asked about, and the
// public half beside it.
func (m *Maker) remove(h held, info keyring.KeyInfo) error {
	if _, err := holds(h.path, info.ID); err != nil {
		return err
	}
	there, err := beside(h.path, info)
	if err := m.before("remove", h.path); err != nil {
		return disk(err)
	}
	if err := os.Remove(h.path); err != nil {
		return disk(err)
	}
	if err == nil && there {
		if err := os.Remove(h.path + pubfile.Suffix); err != nil {
			return disk(err)
		}
	}
	return disk(atomicfile.SyncDir(filepath.Dir(h.path)))
}

func (m *Maker) before(what, path string) error {
	if m.step == nil {
		return nil
	}
	return m.step(what, path)
}

// Attest has the TPM certify a key; see keyring.Keeper. A remembered PIN serves,
// as for any use of the key.
func (m *Maker) Attest(ctx context.Context, r keyring.AttestRequest) ([]byte, error) {
	dev, err := m.device()
	if err != nil {
		return nil, err
	}
	info, list, err := m.files(r.Key, r.Path)
	if err != nil {
		return nil, err
	}
	h := list[0]
	key, err := m.key(h, info)
	if err != nil {
		return nil, err
	}
	defer key.key.Close()
	var b *attest.Bundle
	err = m.Gate.Use(ctx, keyring.Use{
		ID: r.Key.String(), Subject: info.Label, NeedsAuth: h.file.NeedsAuth(), Confirm: info.Confirm, PIN: true,
		Caller: r.Caller, Reason: "to certify that the key is in this TPM", Scope: "attest", Guard: key,
	}, func(auth secret.Bytes) error {
		made, err := dev.Attest(ctx, h.file, auth, r.Nonce)
		if err != nil {
			return translate(h.path, err)
		}
		b = made
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b.JSON()
}
