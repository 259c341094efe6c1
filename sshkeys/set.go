package sshkeys

import (
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/keyring"
)

// Source is the name under which a [Set] publishes its keys.
const Source = "ssh key files"

// A Set is the ordinary private keys in watched directories. It implements
// folder.Consumer.
type Set struct {
	keys    *keyring.Keys
	log     *slog.Logger
	entries map[string]*entry
	pubs    pubfile.Set
}

// entry is one private key file.
type entry struct {
	sketch sketch
	wire   []byte // of the public key; nil while that is not known
	key    *Key   // nil while the public key is not known
}

// New returns an empty set that publishes to keys after each scan. log may be
// nil.
func New(keys *keyring.Keys, log *slog.Logger) *Set {
	if log == nil {
		log = slog.Default()
	}
	return &Set{keys: keys, log: log, entries: map[string]*entry{}}
}

// Load looks for a private key in a file.
func (s *Set) Load(f folder.File, data []byte) error {
	if e := s.entries[f.Path]; e != nil {
		e.forget()
		delete(s.entries, f.Path)
	}
	if s.pubs.Load(f.Path, data) {
		return folder.ErrNotMine
	}
	sk, err := inspect(data)
	if errors.Is(err, errNoKey) {
		return folder.ErrNotMine
	}
	if err := f.Exposed(); err != nil {
		return err // weighs more than what else may be wrong with it
	}
	if err != nil {
		return err
	}
	e := &entry{sketch: sk}
	if sk.public != nil {
		if err := e.become(f.Path, sk.public); err != nil {
			return err
		}
	}
	s.entries[f.Path] = e
	return nil
}

// become makes the entry's key, now that its public half is known.
func (e *entry) become(path string, pub crypto.PublicKey) error {
	id, err := keyring.NewKeyID(pub)
	if err != nil {
		return err
	}
	e.wire = pubfile.Wire(pub)
	e.key = newKey(path, e.sketch.encrypted, keyring.KeyInfo{
		ID: id, Kind: keyring.KindFile, Public: pub,
		Paths: []string{path}, NeedsAuth: e.sketch.encrypted,
		Usages: usagesOf(pub),
	})
	return nil
}

func (e *entry) forget() {
	if e.key != nil {
		e.key.Forget()
	}
}

// Scanned publishes what there is now.
func (s *Set) Scanned(files []folder.File, skip func(path string, reason error)) {
	there := make(map[string]bool, len(files))
	for _, f := range files {
		there[f.Path] = true
	}
	s.pubs.Keep(func(path string) bool { return there[path] })
	keys := make([]keyring.Key, 0, len(s.entries))
	for path, e := range s.entries {
		if !there[path] {
			e.forget()
			delete(s.entries, path)
			continue
		}
		if e.sketch.public == nil {
			if err := s.borrow(path, e); err != nil {
				skip(path, err)
				continue
			}
		}
		s.name(path, e)
		keys = append(keys, e.key)
	}
	slices.SortFunc(keys, func(a, b keyring.Key) int {
		return slices.Compare(a.Info().Paths, b.Info().Paths)
	})
	s.keys.Replace(Source, keys)
	s.log.Debug("key files", "source", Source, "count", len(keys))
}

// borrow gives an encrypted key that hides its public half the one that NAME.pub
// says. Whether that is true shows when the key is first decrypted.
func (s *Set) borrow(path string, e *entry) error {
	p, ok := s.pubs.Beside(path)
	if !ok {
		e.forget()
		e.key, e.wire = nil, nil
		return fmt.Errorf("its public key cannot be told without the passphrase; ssh-keygen -y -f %s > %[1]s.pub puts it beside", path)
	}
	if e.key != nil && slices.Equal(e.wire, p.Blob) {
		return nil
	}
	e.forget()
	e.key, e.wire = nil, nil
	pub, err := parseWire(p.Blob)
	if err == nil {
		err = suitable(pub)
	}
	if err != nil {
		return fmt.Errorf("%s%s: %w", filepath.Base(path), pubfile.Suffix, err)
	}
	return e.become(path, pub)
}

// name gives a key its label: the comment beside it, the comment in it, or the
// file's name.
func (s *Set) name(path string, e *entry) {
	label := pubfile.Label(path, s.pubs.Comment(path, e.wire), e.sketch.comment)
	if info := e.key.Info(); info.Label != label {
		info.Label = label
		e.key.info.Store(&info)
	}
}
