package agent

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/folder"
	"github.com/keyringd/keyringd/internal/folder/pubfile"
	"github.com/keyringd/keyringd/keyring"
)

// certificateFile is how the names of certificate files end, as ssh-keygen -s
// writes them.
const certificateFile = "-cert.pub"

// maxCertificates is how many certificates of one file are taken.
const maxCertificates = 64

// Certificates are the OpenSSH user certificates in watched folders, as a
// folder.Consumer: NAME-cert.pub beside a key. Which key one belongs to is
// decided by the key in it, so that a key may have several.
type Certificates struct {
	byPath map[string][]certificate // of the folder's goroutine alone
	now    atomic.Pointer[certificateSet]
}

// A certificate is for a key, for a time.
type certificate struct {
	key           keyring.KeyID
	blob          []byte
	after, before uint64 // seconds since 1970
}

// A certificateSet is all certificates at one moment. It never changes.
type certificateSet struct {
	generation uint64
	byKey      map[keyring.KeyID][]certificate
}

// NewCertificates returns a consumer that has seen no file yet.
func NewCertificates() *Certificates {
	c := &Certificates{byPath: map[string][]certificate{}}
	c.now.Store(&certificateSet{})
	return c
}

var _ folder.Consumer = (*Certificates)(nil)

// Load looks for certificates in a file. Who else may read it does not matter.
// The good ones of a file are taken, whatever the others are.
func (c *Certificates) Load(f folder.File, data []byte) error {
	delete(c.byPath, f.Path)
	if !strings.HasSuffix(f.Path, certificateFile) {
		return folder.ErrNotMine
	}
	found, err := readCertificates(data)
	if len(found) > 0 {
		c.byPath[f.Path] = found
	}
	return err
}

// Scanned publishes the certificates of the files that are there.
func (c *Certificates) Scanned(files []folder.File, _ func(string, error)) {
	there := make(map[string]bool, len(files))
	old := c.now.Load()
	next := &certificateSet{generation: old.generation + 1, byKey: map[keyring.KeyID][]certificate{}}
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
	same := len(next.byKey) == len(old.byKey)
	for key, list := range next.byKey {
		// Those that are valid longest come first, as clients try the first.
		slices.SortFunc(list, func(a, b certificate) int {
			return cmp.Or(cmp.Compare(b.before, a.before), bytes.Compare(a.blob, b.blob))
		})
		list = slices.CompactFunc(list, equalCertificates)
		next.byKey[key] = list
		same = same && slices.EqualFunc(list, old.byKey[key], equalCertificates)
	}
	if !same {
		c.now.Store(next)
	}
}

func equalCertificates(a, b certificate) bool { return bytes.Equal(a.blob, b.blob) }

// Of returns a key's certificates in SSH's wire form, not to be modified.
func (c *Certificates) Of(key keyring.KeyID) [][]byte {
	var blobs [][]byte
	for _, cert := range c.of(key) {
		blobs = append(blobs, cert.blob)
	}
	return blobs
}

// Generation grows when certificates change.
func (c *Certificates) Generation() uint64 { return c.generation() }

// generation changes when certificates do.
func (c *Certificates) generation() uint64 { return c.now.Load().generation }

// of returns a key's certificates. The slice is shared.
func (c *Certificates) of(key keyring.KeyID) []certificate { return c.now.Load().byKey[key] }

// readCertificates returns the good certificates in a file, one a line, and what
// is wrong with the first other one.
func readCertificates(data []byte) (found []certificate, err error) {
	wrong := func(why error) {
		if err == nil {
			err = why
		}
	}
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) == 0 || line[0] == '#' {
			continue
		}
		if len(found) == maxCertificates {
			wrong(fmt.Errorf("more than %d certificates; the others are left out", maxCertificates))
			break
		}
		p, ok := pubfile.Parse(line)
		if !ok {
			wrong(errors.New("not a certificate that can be read"))
			continue
		}
		cert, certErr := readCertificate(p.Blob)
		if certErr != nil {
			wrong(certErr)
			continue
		}
		found = append(found, cert)
	}
	if err == nil && len(found) == 0 {
		return nil, folder.ErrNotMine
	}
	return found, err
}

func readCertificate(blob []byte) (certificate, error) {
	cert, err := parseCertificate(blob)
	if err != nil {
		return certificate{}, errors.New("not a certificate that can be read, or its signature is wrong")
	}
	if cert.CertType != ssh.UserCert {
		return certificate{}, errors.New("a certificate for a host, not for a user")
	}
	key, ok := cert.Key.(ssh.CryptoPublicKey)
	if !ok || strings.HasPrefix(cert.Key.Type(), "sk-") {
		return certificate{}, folder.ErrNotMine // its private half is not in files
	}
	id, err := keyring.NewKeyID(key.CryptoPublicKey())
	if err != nil {
		return certificate{}, folder.ErrNotMine
	}
	return certificate{key: id, blob: cert.Marshal(), after: cert.ValidAfter, before: cert.ValidBefore}, nil
}

// validAt reports whether a certificate is valid at a time, and how long that
// stays so; 0: for ever. One that is not would only cost the client a try.
func (c *certificate) validAt(now time.Time) (ok bool, stays time.Duration) {
	at := uint64(max(0, now.Unix()))
	until := func(t uint64) time.Duration {
		const century = 100 * 365 * 24 * 60 * 60
		return time.Duration(min(t-at, century)) * time.Second
	}
	switch {
	case at < c.after:
		return false, until(c.after)
	case at >= c.before:
		return false, 0
	case c.before == ssh.CertTimeInfinity:
		return true, 0
	}
	return true, until(c.before)
}
