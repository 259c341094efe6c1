package pkcs11

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/keyring"
)

// maxCertificates is how many certificates of one file are looked at: a chain
// has three or four.
const maxCertificates = 16

// Certificates are the X.509 certificates in watched folders, as a
// folder.Consumer: NAME.crt beside a key, or any other file, PEM or DER. Which
// of them are shown is decided by the public keys in them. Certificates of other
// formats, such as OpenSSH's, are left to others.
//
// The exported field is set before first use.
type Certificates struct {
	// Rescan makes known what was written to the folders. nil: certificates are
	// only read.
	Rescan func(context.Context) error

	byPath map[string][]certificate // of the folder's goroutine alone
	now    atomic.Pointer[certSet]
	adding sync.Mutex // one file at a time finds a free name
}

type certID [sha256.Size]byte

type certificate struct {
	id   certID
	key  keyring.KeyID
	cert *x509.Certificate
}

// A certSet is all certificates at one moment. It never changes.
type certSet struct {
	generation uint64
	byKey      map[keyring.KeyID][]certificate
}

// NewCertificates returns a consumer that has seen no file yet.
func NewCertificates() *Certificates {
	c := &Certificates{byPath: map[string][]certificate{}}
	c.now.Store(&certSet{})
	return c
}

var _ folder.Consumer = (*Certificates)(nil)

// Load looks for certificates in a file. Who else may read it does not matter.
func (c *Certificates) Load(f folder.File, data []byte) error {
	delete(c.byPath, f.Path)
	if atomicfile.IsTemporary(f.Path) {
		return folder.ErrNotMine
	}
	found, err := parseCertificates(data)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		return folder.ErrNotMine
	}
	c.byPath[f.Path] = found
	return nil
}

// Scanned publishes the certificates of the files that are there.
func (c *Certificates) Scanned(files []folder.File, _ func(string, error)) {
	there := make(map[string]bool, len(files))
	next := &certSet{generation: c.now.Load().generation + 1, byKey: map[keyring.KeyID][]certificate{}}
	for _, f := range files {
		there[f.Path] = true
		for _, cert := range c.byPath[f.Path] {
			next.byKey[cert.key] = append(next.byKey[cert.key], cert)
		}
	}
	for path := range c.byPath {
		if !there[path] {
			delete(c.byPath, path)
		}
	}
	for key, list := range next.byKey {
		next.byKey[key] = inOrder(list)
	}
	if !next.same(c.now.Load()) {
		c.now.Store(next)
	}
}

// inOrder puts those that are valid longest first, as programs take the first
// one, and leaves out copies.
func inOrder(list []certificate) []certificate {
	slices.SortFunc(list, func(a, b certificate) int {
		return cmp.Or(b.cert.NotAfter.Compare(a.cert.NotAfter), bytes.Compare(a.id[:], b.id[:]))
	})
	return slices.CompactFunc(list, func(a, b certificate) bool { return a.id == b.id })
}

func (s *certSet) same(other *certSet) bool {
	if len(s.byKey) != len(other.byKey) {
		return false
	}
	for key, list := range s.byKey {
		if !slices.EqualFunc(list, other.byKey[key], func(a, b certificate) bool { return a.id == b.id }) {
			return false
		}
	}
	return true
}

// Of returns a key's certificates in DER, not to be modified.
func (c *Certificates) Of(key keyring.KeyID) [][]byte {
	var all [][]byte
	for _, cert := range c.of(key) {
		all = append(all, cert.cert.Raw)
	}
	return all
}

// Generation grows when certificates change.
func (c *Certificates) Generation() uint64 { return c.generation() }

// generation changes when certificates do.
func (c *Certificates) generation() uint64 { return c.now.Load().generation }

// of returns a key's certificates. The slice is shared.
func (c *Certificates) of(key keyring.KeyID) []certificate { return c.now.Load().byKey[key] }

// writable reports whether certificates can be added.
func (c *Certificates) writable() bool { return c.Rescan != nil }

// Add writes a certificate as PEM beside its key's first file: NAME.crt, or
// NAME.2.crt and so on where that is taken, as nothing is ever written over. When
// it returns the certificate is shown. One that is shown already is not written
// again. Errors wrap ErrUnsupported and ErrUnavailable, or are ctx's.
func (c *Certificates) Add(ctx context.Context, key keyring.KeyInfo, cert *x509.Certificate) error {
	if !c.writable() || len(key.Paths) == 0 {
		return fmt.Errorf("a certificate without a place: %w", keyring.ErrUnsupported)
	}
	if err := c.write(ctx, key, cert); err != nil {
		return err
	}
	if err := c.Rescan(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", keyring.ErrUnavailable, err)
	}
	return ctx.Err()
}

// maxCopies is how many certificates of one key are written: far more than are
// valid at a time.
const maxCopies = 20

func (c *Certificates) write(ctx context.Context, key keyring.KeyInfo, cert *x509.Certificate) error {
	c.adding.Lock()
	defer c.adding.Unlock()
	id := certID(sha256.Sum256(cert.Raw))
	if slices.ContainsFunc(c.of(key.ID), func(have certificate) bool { return have.id == id }) {
		return nil
	}
	file := atomicfile.File{
		Data: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		Perm: 0o644,
	}
	for n := 1; n <= maxCopies; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		file.Path = key.Paths[0] + ".crt"
		if n > 1 {
			file.Path = fmt.Sprintf("%s.%d.crt", key.Paths[0], n)
		}
		err := put(file)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%w: %w", keyring.ErrUnavailable, err)
		}
	}
	return fmt.Errorf("%s has more than %d certificates: %w", key.Paths[0], maxCopies, keyring.ErrUnsupported)
}

func put(file atomicfile.File) error {
	staged, err := atomicfile.Stage(nil, file)
	if err != nil {
		return err
	}
	return staged.Commit()
}

// parseCertificates returns the certificates in a file, none where there is none.
func parseCertificates(data []byte) ([]certificate, error) {
	if !bytes.Contains(data, []byte("-----BEGIN CERTIFICATE-----")) {
		// DER has no mark of its own: what does not parse is something else. A
		// certificate keeps what it was parsed from, and data is only borrowed.
		if cert, err := x509.ParseCertificate(bytes.Clone(data)); err == nil {
			return named(nil, cert), nil
		}
		return nil, nil
	}
	var found []certificate
	for seen := 0; seen < maxCertificates; {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		seen++
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("not a certificate that can be read: %w", err)
		}
		found = named(found, cert)
	}
	return found, nil
}

// named adds a certificate under the name of its key, unless that is of a kind
// that no key here can be.
func named(list []certificate, cert *x509.Certificate) []certificate {
	id, err := keyring.NewKeyID(cert.PublicKey)
	if err != nil {
		return list
	}
	return append(list, certificate{sha256.Sum256(cert.Raw), id, cert})
}
