package dbus

import (
	"crypto/x509"
	"reflect"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/dbus/internal/wire"
	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/keyring"
)

const (
	busName  = "io.github.keyringd"
	rootPath = godbus.ObjectPath("/io/github/keyringd")
	keysPath = rootPath + "/keys"

	keyringsPath = rootPath + "/keyrings"

	// maxLabel is how many characters of a label are shown, so that a key file
	// cannot fill the messages of all.
	maxLabel = 255
)

type properties = map[string]godbus.Variant

// An entry is a key as the bus sees it.
type entry struct {
	info       keyring.KeyInfo
	path       godbus.ObjectPath
	properties properties
}

func keyPath(id keyring.KeyID) godbus.ObjectPath {
	return keysPath + "/" + godbus.ObjectPath(id.String())
}

func newEntry(info keyring.KeyInfo) *entry {
	blob := sshBlob(info.Public)
	// A key that x509 cannot encode has no ID, so that none gets here.
	der, _ := x509.MarshalPKIXPublicKey(info.Public)
	paths := make([]string, len(info.Paths))
	for i, p := range info.Paths {
		paths[i] = strings.ToValidUTF8(p, "\uFFFD")
	}
	return &entry{info: info, path: keyPath(info.ID), properties: properties{
		"Label":                godbus.MakeVariant(caller.Sanitize(info.Label, maxLabel)),
		"Algorithm":            godbus.MakeVariant(algorithm(info.Public)),
		"PublicKey":            godbus.MakeVariant(blob),
		"SubjectPublicKeyInfo": godbus.MakeVariant(der),
		"Fingerprint":          godbus.MakeVariant(fingerprint(blob)),
		"Kind":                 godbus.MakeVariant(string(info.Kind)),
		"Paths":                godbus.MakeVariant(paths),
		"NeedsAuth":            godbus.MakeVariant(info.NeedsAuth),
		"Confirm":              godbus.MakeVariant(info.Confirm),
		"Certificates":         godbus.MakeVariant([][]byte{}),
	}}
}

// objects is what GetManagedObjects returns.
type objects map[godbus.ObjectPath]map[string]properties

// A catalog is all keys at one generation. It never changes.
type catalog struct {
	generation uint64
	order      []*entry
	byPath     map[godbus.ObjectPath]*entry
	managed    encoded[objects]
}

func newCatalog(generation uint64, infos []keyring.KeyInfo) (*catalog, error) {
	c := &catalog{generation: generation, byPath: make(map[godbus.ObjectPath]*entry, len(infos))}
	all := make(objects, len(infos))
	for _, info := range infos {
		e := newEntry(info)
		c.order = append(c.order, e)
		c.byPath[e.path] = e
		all[e.path] = map[string]properties{keyInterface: e.properties}
	}
	body, err := wire.Append(nil, all)
	c.managed = body
	return c, err
}

// catalog returns the keys as they are now. It is cheap as long as they stay
// the same.
func (s *Server) catalog() (*catalog, error) {
	// The generation is read before the keys: should they change between the
	// two, the catalog is made anew at the next call.
	generation := s.keys.Generation()
	if c := s.current.Load(); c != nil && c.generation == generation {
		return c, nil
	}
	s.making.Lock()
	defer s.making.Unlock()
	if c := s.current.Load(); c != nil && c.generation == generation {
		return c, nil
	}
	c, err := newCatalog(generation, s.keys.List())
	if err != nil {
		return nil, err
	}
	s.current.Store(c)
	return c, nil
}

// A change is one signal about a key.
type change struct {
	path   godbus.ObjectPath
	iface  string
	member string
	values []any
}

// changes are the signals that lead from one catalog to the next.
func changes(before, after *catalog) []change {
	var all []change
	for _, e := range before.order {
		if after.byPath[e.path] == nil {
			all = append(all, change{rootPath, managerInterface, "InterfacesRemoved", []any{e.path, []string{keyInterface}}})
		}
	}
	for _, e := range after.order {
		old := before.byPath[e.path]
		if old == nil {
			all = append(all, change{rootPath, managerInterface, "InterfacesAdded",
				[]any{e.path, map[string]properties{keyInterface: e.properties}}})
			continue
		}
		changed := properties{}
		for name, v := range e.properties {
			if !reflect.DeepEqual(v, old.properties[name]) {
				changed[name] = v
			}
		}
		if len(changed) > 0 {
			all = append(all, change{e.path, propertiesInterface, "PropertiesChanged", []any{keyInterface, changed, []string{}}})
		}
	}
	return all
}
