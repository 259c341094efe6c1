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

func newEntry(info keyring.KeyInfo, more facts) *entry {
	blob := sshBlob(info.Public)
	// A key that x509 cannot encode has no ID, so that none gets here.
	der, _ := x509.MarshalPKIXPublicKey(info.Public)
	paths := make([]string, len(info.Paths))
	for i, p := range info.Paths {
		paths[i] = strings.ToValidUTF8(p, "\uFFFD")
	}
	name, certificates := "", [][]byte{}
	if more.URI != nil {
		name = more.URI(info)
	}
	for _, c := range more.Certificates {
		certificates = append(certificates, c.Of(info.ID)...)
	}
	return &entry{info: info, path: keyPath(info.ID), properties: properties{
		"URI":                  godbus.MakeVariant(name),
		"Label":                godbus.MakeVariant(caller.Sanitize(info.Label, maxLabel)),
		"Algorithm":            godbus.MakeVariant(algorithm(info.Public)),
		"PublicKey":            godbus.MakeVariant(blob),
		"SubjectPublicKeyInfo": godbus.MakeVariant(der),
		"Fingerprint":          godbus.MakeVariant(fingerprint(blob)),
		"Kind":                 godbus.MakeVariant(string(info.Kind)),
		"Paths":                godbus.MakeVariant(paths),
		"NeedsAuth":            godbus.MakeVariant(info.NeedsAuth),
		"Confirm":              godbus.MakeVariant(info.Confirm),
		"Certificates":         godbus.MakeVariant(certificates),
	}}
}

// objects is what GetManagedObjects returns.
type objects map[godbus.ObjectPath]map[string]properties

// Certificates are one kind of certificates of keys.
type Certificates interface {
	// Of returns a key's certificates in the form they were found in. They are
	// shared, and not to be modified.
	Of(key keyring.KeyID) [][]byte
	// Generation grows whenever Of would return something else.
	Generation() uint64
}

// facts are what others than the keys know of keys.
type facts struct {
	URI          func(keyring.KeyInfo) string
	Certificates []Certificates
}

// A generation tells one state of keys and certificates from the next.
type generation struct{ keys, certificates uint64 }

// A catalog is all keys at one generation. It never changes.
type catalog struct {
	generation generation
	order      []*entry
	byPath     map[godbus.ObjectPath]*entry
	managed    encoded[objects]
}

func newCatalog(generation generation, infos []keyring.KeyInfo, more facts) (*catalog, error) {
	c := &catalog{generation: generation, byPath: make(map[godbus.ObjectPath]*entry, len(infos))}
	all := make(objects, len(infos))
	for _, info := range infos {
		e := newEntry(info, more)
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
	generation := generation{keys: s.keys.Generation()}
	for _, c := range s.Certificates {
		generation.certificates += c.Generation() // each only grows
	}
	if c := s.current.Load(); c != nil && c.generation == generation {
		return c, nil
	}
	s.making.Lock()
	defer s.making.Unlock()
	if c := s.current.Load(); c != nil && c.generation == generation {
		return c, nil
	}
	c, err := newCatalog(generation, s.keys.List(), facts{s.URI, s.Certificates})
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
