package dbus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/keyring"
)

// The Secret Service's names: Secret Service API 0.2, "Object Paths".
const (
	secretsName     = "org.freedesktop.secrets"
	secretsPath     = godbus.ObjectPath("/org/freedesktop/secrets")
	collectionsPath = secretsPath + "/collection"
	aliasesPath     = secretsPath + "/aliases"
	sessionsPath    = secretsPath + "/session"
	promptsPath     = secretsPath + "/prompt"

	// nothing is the specification's path of no object.
	nothing = godbus.ObjectPath("/")
)

// base is the last element of a path.
func base(at godbus.ObjectPath) string { return string(at[strings.LastIndexByte(string(at), '/')+1:]) }

func collectionPath(id string) godbus.ObjectPath {
	return collectionsPath + "/" + godbus.ObjectPath(id)
}

func itemPath(r keyring.ItemRef) godbus.ObjectPath {
	return collectionPath(r.Collection) + "/" + godbus.ObjectPath(r.Item)
}

func itemPaths(refs []keyring.ItemRef) []godbus.ObjectPath {
	paths := make([]godbus.ObjectPath, len(refs))
	for i, r := range refs {
		paths[i] = itemPath(r)
	}
	return paths
}

// resolve returns the collection that a path names, by its ID or by an alias,
// or the item. Neither need exist.
func (s *Server) resolve(at godbus.ObjectPath) (r keyring.ItemRef, ok bool) {
	below, ok := strings.CutPrefix(string(at), string(secretsPath)+"/")
	if !ok {
		return r, false
	}
	kind, names, _ := strings.Cut(below, "/")
	name, item, deeper := strings.Cut(names, "/")
	if name == "" || strings.Contains(item, "/") || deeper && item == "" {
		return r, false
	}
	switch kind {
	case base(collectionsPath):
		r.Collection = name
	case base(aliasesPath):
		if r.Collection, ok = s.Secrets.Alias(name); !ok {
			return r, false
		}
	default:
		return r, false
	}
	r.Item = item
	return r, true
}

// collection returns the collection that a path names.
func (s *Server) collection(at godbus.ObjectPath) (keyring.CollectionInfo, error) {
	r, ok := s.resolve(at)
	if !ok || r.Item != "" {
		return keyring.CollectionInfo{}, s.nothing(at)
	}
	return s.Secrets.Collection(r.Collection)
}

// nothing is why there is nothing at a path. Where the keyrings cannot be read,
// nobody knows what an alias stands for, and a client must hear of that instead.
func (s *Server) nothing(at godbus.ObjectPath) error {
	if strings.HasPrefix(string(at), string(aliasesPath)+"/") {
		if _, err := s.Secrets.Collection(keyring.LoginCollection); errors.Is(err, keyring.ErrUnavailable) {
			return fmt.Errorf("%.200s: %w", at, err)
		}
	}
	return fmt.Errorf("%.200s: %w", at, keyring.ErrNotFound)
}

// lookupSecrets finds the node of a path of the Secret Service. Sessions and
// prompts are not among them: those are their owners' alone.
func (s *Server) lookupSecrets(n node) (node, error) {
	switch n.path {
	case secretsPath:
		n.interfaces = slices.Concat([]string{serviceInterface, guiltRiddenInterface, propertiesInterface}, everywhere)
		for _, at := range []godbus.ObjectPath{aliasesPath, collectionsPath, promptsPath, sessionsPath} {
			n.children = append(n.children, base(at))
		}
		n.read = func() (properties, error) { return s.serviceProperties(), nil }
		return n, nil
	case collectionsPath:
		for _, c := range s.Secrets.Collections() {
			n.children = append(n.children, c.ID)
		}
		return n, nil
	case aliasesPath:
		n.children = s.aliases()
		return n, nil
	case sessionsPath, promptsPath:
		return n, nil
	}
	if strings.HasPrefix(string(n.path), string(sessionsPath)+"/") {
		return n, fmt.Errorf("%w: %.200s", errNoSession, n.path)
	}
	r, ok := s.resolve(n.path)
	if !ok {
		return n, s.nothing(n.path)
	}
	info, err := s.Secrets.Collection(r.Collection)
	if err != nil {
		return n, err
	}
	n.item = r
	if r.Item != "" {
		n.interfaces = slices.Concat([]string{itemInterface, propertiesInterface}, everywhere)
		n.read = func() (properties, error) { return s.itemProperties(r) }
		n.list = func() ([]string, error) { _, err := s.itemProperties(r); return nil, err }
		return n, nil
	}
	n.interfaces = slices.Concat([]string{collectionInterface, propertiesInterface}, everywhere)
	n.read = func() (properties, error) { return s.collectionProperties(info) }
	n.list = func() ([]string, error) {
		refs, err := s.Secrets.Items(info.ID)
		names := make([]string, len(refs))
		for i, r := range refs {
			names[i] = r.Item
		}
		return names, err
	}
	return n, nil
}

// aliases lists the well-known aliases that lead somewhere. Others, which
// somebody set, answer just as well.
func (s *Server) aliases() (names []string) {
	for _, name := range []string{keyring.DefaultAlias, keyring.LoginCollection, keyring.SessionCollection} {
		if _, err := s.collection(aliasesPath + "/" + godbus.ObjectPath(name)); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// unlocking does what needs an unlocked collection. If the collection is locked
// and can be unlocked without asking anybody, that is done first, so that
// programs see it locked only where a person is needed. Unlocking also puts
// damage right.
func (s *Server) unlocking(ctx context.Context, collection string, do func() error) error {
	err := do()
	if (errors.Is(err, keyring.ErrLocked) || errors.Is(err, keyring.ErrUnavailable) && s.locked(collection)) && s.Secrets.UnlockQuietly(ctx, collection) {
		err = do()
	}
	return err
}

func (s *Server) locked(collection string) bool {
	info, err := s.Secrets.Collection(collection)
	return err == nil && info.Locked
}
