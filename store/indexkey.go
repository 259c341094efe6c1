package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// The index key lies in a file of its own, so that neither the database nor its
// copies help anybody to guess what is in a locked collection. With a TPM it is
// sealed, without a PIN; without one the file's permissions are all there is.
const (
	indexKeyFile  = "index.key"
	indexKeyOld   = "index.key.old"
	indexKeyMagic = "keyringd index key\n"
	indexPlain    = 0
	indexSealed   = 1

	// maxIndexFile is more than any of them has.
	maxIndexFile = len(indexKeyMagic) + 1 + 4 + maxSealed + checksumSize
)

// readIndexKey returns the key in the file, the caller's to Wipe, and whether it
// is sealed. fs.ErrNotExist is within the error if there is none.
func (s *Store) readIndexKey(ctx context.Context) (key secret.Bytes, sealed bool, err error) {
	f, err := os.Open(filepath.Join(s.dir, indexKeyFile))
	if err != nil {
		return secret.Bytes{}, false, err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, maxIndexFile+1)
	defer func() { clear(b) }()
	n, err := readFull(f, b)
	if err != nil {
		return secret.Bytes{}, false, err
	}
	body := n - checksumSize
	if n > maxIndexFile || body < 0 || string(checksum(b[:body])) != string(b[body:n]) {
		return secret.Bytes{}, false, damaged("%s is not as it was written", indexKeyFile)
	}
	r := &reader{b: b[:body]}
	magic, kind, payload := string(r.take(len(indexKeyMagic))), r.byte(), r.bytes()
	switch {
	case r.end() != nil || magic != indexKeyMagic || (kind == indexPlain && len(payload) != keySize):
		return secret.Bytes{}, false, damaged("%s is not an index key", indexKeyFile)
	case kind == indexPlain:
		return secret.Copy(payload), false, nil
	case kind != indexSealed:
		return secret.Bytes{}, false, problem(keyring.ErrUnsupported, "%s is of a newer keyringd", indexKeyFile)
	case s.indexSealer == nil:
		return secret.Bytes{}, true, problem(keyring.ErrUnavailable, "%s is sealed: %w", indexKeyFile, errNoTPM)
	}
	key, err = s.indexSealer.Unseal(ctx, secret.Bytes{}, payload)
	if err == nil && key.Len() != keySize {
		key.Wipe()
		err = damaged("%s holds no key", indexKeyFile)
	}
	return key, true, err
}

// writeIndexKey puts the key into the file, sealed if it can be. What was there
// before is kept beside it.
func (s *Store) writeIndexKey(ctx context.Context, key secret.Bytes) error {
	b := make([]byte, 0, maxIndexFile)
	defer func() { clear(b) }()
	b = append(b, indexKeyMagic...)
	if s.indexSealer == nil {
		b = append(b, indexPlain)
		key.Use(func(k []byte) { b = putBytes(b, k) })
	} else {
		sealed, err := s.indexSealer.Seal(ctx, secret.Bytes{}, key)
		if err != nil {
			return err
		}
		b = putBytes(append(b, indexSealed), sealed)
	}
	b = append(b, checksum(b)...)
	path := filepath.Join(s.dir, indexKeyFile)
	if _, err := os.Lstat(path); err == nil {
		old := filepath.Join(s.dir, indexKeyOld)
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		// A link, and not a rename: at no moment is there no file.
		if err := os.Link(path, old); err != nil {
			s.log.Warn("the old index key is not kept", "err", err)
		}
	}
	staged, err := atomicfile.Stage(nil, atomicfile.File{Path: path, Data: b, Perm: 0o600, Replace: true})
	if err != nil {
		return err
	}
	return staged.Commit()
}

// loadIndexKey finds the index key when the store is opened. That there is none
// to be had is no reason not to open it: what is locked cannot be searched then.
func (s *Store) loadIndexKey(ctx context.Context) {
	key, sealed, err := s.readIndexKey(ctx)
	switch {
	case err == nil:
		s.indexKey = key
		if !sealed && s.indexSealer != nil && s.readOnly == nil {
			// There is a TPM now, or it was not there when the key was made.
			if err := s.writeIndexKey(ctx, key); err != nil {
				s.log.Warn("the index key stays unsealed", "err", err)
			} else {
				_ = os.Remove(filepath.Join(s.dir, indexKeyOld)) // it is the same key, for anybody to read
			}
		}
	default:
		s.noIndexKey = err // which is as it should be before there is a collection
	}
}

// ensureIndexKey returns the index key, and makes one if the one there was is
// lost. A TPM that merely does not answer has lost nothing. keyMu is held.
func (s *Store) ensureIndexKey(ctx context.Context) (secret.Bytes, error) {
	if s.indexKey.Len() > 0 {
		return s.indexKey, nil
	}
	if s.readOnly != nil {
		return secret.Bytes{}, unwritten(indexKeyFile, s.readOnly)
	}
	key, _, err := s.readIndexKey(ctx)
	if err == nil {
		s.indexKey = key
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		if s.indexSealer == nil && !errors.Is(err, errDamaged) {
			return secret.Bytes{}, err // it may be there again tomorrow
		}
		s.log.Warn("the index key is lost, and another is made", "err", err)
	}
	key = newKey()
	// This fails if the TPM does not answer; one that does, and could not give
	// back the old key, is another TPM.
	if err := s.writeIndexKey(ctx, key); err != nil {
		key.Wipe()
		return secret.Bytes{}, unwritten(indexKeyFile, err)
	}
	s.indexKey = key
	return key, nil
}

// wrapKey wraps a collection's index key with the store's.
func wrapKey(indexKey secret.Bytes, collection string, xk secret.Bytes) (b []byte) {
	xk.Use(func(plain []byte) { b = seal(newAEAD(indexKey, "index keys"), plain, bound("index key", collection)) })
	return b
}

func unwrapKey(indexKey secret.Bytes, collection string, b []byte) (secret.Bytes, error) {
	plain, err := unseal(newAEAD(indexKey, "index keys"), nil, b, bound("index key", collection))
	if err == nil && len(plain) != keySize {
		err = errMalformed
	}
	if err != nil {
		return secret.Bytes{}, err
	}
	return secret.From(plain), nil
}
