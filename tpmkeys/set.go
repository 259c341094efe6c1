package tpmkeys

import (
	"errors"
	"log/slog"
	"slices"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// Source is the name under which a [Set] publishes its keys.
const Source = "TPM key files"

// A Set is the TPM keys in watched directories. It implements folder.Consumer.
type Set struct {
	dev     *tpm.Device
	keys    *keyring.Keys
	log     *slog.Logger
	entries map[string]*entry
	gone    []*tpm.Key // to be closed once nobody can find them any more
	pubs    pubfile.Set
}

// entry is one TPM key file.
type entry struct {
	key         *Key
	wire        []byte // SSH wire form of the public key
	description string // what the file says of itself; not sanitised
}

// New returns an empty set that publishes to keys after each scan. With dev nil
// there is no TPM: the files are recognised, and left out for that reason. log
// may be nil.
func New(dev *tpm.Device, keys *keyring.Keys, log *slog.Logger) *Set {
	if log == nil {
		log = slog.Default()
	}
	return &Set{dev: dev, keys: keys, log: log, entries: map[string]*entry{}}
}

// ErrNoTPM says that a TPM key file is of no use on a machine without a TPM.
var ErrNoTPM = errors.New("a TPM key, but there is no TPM")

// Load looks for a TPM key in a file.
func (s *Set) Load(f folder.File, data []byte) error {
	s.drop(f.Path)
	if atomicfile.IsTemporary(f.Path) {
		return folder.ErrNotMine // not yet a key, or what a crash left of one
	}
	if s.pubs.Load(f.Path, data) {
		return folder.ErrNotMine
	}
	file, err := keyfile.Parse(data)
	if errors.Is(err, keyfile.ErrNotKeyFile) || err == nil && file.Type == keyfile.Sealed {
		return folder.ErrNotMine
	}
	if err := f.Exposed(); err != nil {
		return err // weighs more than what else may be wrong with it
	}
	if err == nil && s.dev == nil {
		err = ErrNoTPM
	}
	if err != nil {
		return reason{err}
	}
	e, err := s.entry(f.Path, file)
	if err != nil {
		return reason{err}
	}
	s.entries[f.Path] = e
	return nil
}

// A reason is an error that may quote the file, made fit for a person.
type reason struct{ error }

// maxReason is how many characters of a reason are shown.
const maxReason = 200

// Error is the error's own text, sanitised.
func (r reason) Error() string { return caller.Sanitize(r.error.Error(), maxReason) }

// Unwrap returns the error.
func (r reason) Unwrap() error { return r.error }

func (s *Set) entry(path string, file *keyfile.File) (*entry, error) {
	pub, err := file.PublicKey()
	if err != nil {
		return nil, err
	}
	id, err := keyring.NewKeyID(pub)
	if err != nil {
		return nil, err
	}
	key, err := s.dev.Key(file)
	if err != nil {
		return nil, err
	}
	k := &Key{path: path, dev: s.dev, key: key, counted: file.DAProtected(), changed: s.keys.Refresh}
	usages, origin := abilities(key.Traits())
	k.info.Store(&keyring.KeyInfo{
		ID: id, Kind: keyring.KindTPM, Public: pub, Paths: []string{path}, NeedsAuth: file.NeedsAuth(),
		Usages: usages, Origin: origin,
	})
	return &entry{key: k, wire: pubfile.Wire(pub), description: file.Description}, nil
}

func (s *Set) drop(path string) {
	if e := s.entries[path]; e != nil {
		s.gone = append(s.gone, e.key.key)
		delete(s.entries, path)
	}
}

// Scanned publishes what there is now.
func (s *Set) Scanned(files []folder.File, _ func(string, error)) {
	there := make(map[string]bool, len(files))
	for _, f := range files {
		there[f.Path] = true
	}
	s.pubs.Keep(func(path string) bool { return there[path] })
	keys := make([]keyring.Key, 0, len(s.entries))
	for path, e := range s.entries {
		if !there[path] {
			s.drop(path)
			continue
		}
		s.name(path, e)
		keys = append(keys, e.key)
	}
	slices.SortFunc(keys, func(a, b keyring.Key) int {
		return slices.Compare(a.Info().Paths, b.Info().Paths)
	})
	s.keys.Replace(Source, keys)
	for _, k := range s.gone {
		k.Close()
	}
	s.gone = nil
	s.log.Debug("key files", "source", Source, "count", len(keys))
}

// name gives a key its label: the comment beside it, what it says of itself, or
// the file's name.
func (s *Set) name(path string, e *entry) {
	label := pubfile.Label(path, s.pubs.Comment(path, e.wire), e.description)
	if e.key.Info().Label != label {
		e.key.update(func(info *keyring.KeyInfo) { info.Label = label })
	}
}
