package moving

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/store/archive"
	"github.com/keyringd/keyringd/store/foreign"
)

// Import reads keyrings and puts their items into ours.
func (m *Mover) Import(ctx context.Context, r keyring.ImportSecretsRequest) ([]keyring.Moved, error) {
	read := m.importForeign
	if r.Archive {
		read = m.importArchives
	}
	all, err := read(ctx, r)
	m.tell(r.Caller, "keyring imported", all)
	return all, err
}

func (m *Mover) importForeign(ctx context.Context, r keyring.ImportSecretsRequest) ([]keyring.Moved, error) {
	reader := foreign.Reader{Ask: func(ctx context.Context, f foreign.File, retry bool) (secret.Bytes, error) {
		reason := "read it, to import what is in it"
		if retry {
			reason = "read it; the password before was wrong"
		}
		var password secret.Bytes
		err := m.ask(ctx, r.Caller, f.Path, "the keyring "+f.Name, reason, func(auth secret.Bytes) error {
			password = auth.Clone()
			return nil
		})
		if errors.Is(err, keyring.ErrDenied) {
			return secret.Bytes{}, foreign.ErrSkip
		}
		return password, err
	}}
	results, err := reader.Read(ctx, r.Paths...)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, result := range results {
			if result.Keyring != nil {
				result.Keyring.Wipe()
			}
		}
	}()
	var all []keyring.Moved
	for _, result := range results {
		moved := keyring.Moved{Path: result.File.Path, Label: result.File.Name}
		switch {
		case result.Err != nil:
			moved.Err = fmt.Errorf("%w: %w", sentinel(result.Err), result.Err)
		default:
			k := result.Keyring
			if k.Label != "" {
				moved.Label = k.Label
			}
			moved.Notes = k.Notes
			b := batch{name: result.File.Name, label: moved.Label}
			for _, it := range k.Items {
				b.items = append(b.items, item{it.Label, it.ContentType, it.Attributes, it.Secret, it.Created, it.Modified})
			}
			moved.Err = m.put(ctx, r.Caller, b, r.Into, &moved)
		}
		if all = append(all, moved); ctx.Err() != nil {
			return all, ctx.Err()
		}
	}
	return all, nil
}

// sentinel is what kind of error reading a file ended with.
func sentinel(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return keyring.ErrNotFound
	case errors.Is(err, foreign.ErrSkip):
		return keyring.ErrDenied
	case errors.Is(err, foreign.ErrPassword), errors.Is(err, archive.ErrPassphrase):
		return keyring.ErrAuthFailed
	case errors.Is(err, foreign.ErrFormat), errors.Is(err, archive.ErrFormat), errors.Is(err, archive.ErrTooLarge):
		return keyring.ErrUnsupported
	}
	return keyring.ErrUnavailable
}

func (m *Mover) importArchives(ctx context.Context, r keyring.ImportSecretsRequest) ([]keyring.Moved, error) {
	var all []keyring.Moved
	for _, path := range r.Paths {
		collections, err := m.readArchive(ctx, r.Caller, path)
		if err != nil {
			all = append(all, keyring.Moved{Path: path, Label: filepath.Base(path), Err: err})
		}
		for _, from := range collections {
			moved := keyring.Moved{Path: path, Label: from.Label}
			b := batch{name: from.ID, label: from.Label, aliases: from.Aliases}
			for _, it := range from.Items {
				b.items = append(b.items, item{it.Label, it.ContentType, it.Attributes, it.Secret, it.Created, it.Modified})
			}
			moved.Err = m.put(ctx, r.Caller, b, r.Into, &moved)
			all = append(all, moved)
		}
		archive.Wipe(collections)
		if ctx.Err() != nil {
			return all, ctx.Err()
		}
	}
	return all, nil
}

// readArchive reads an archive, for which the user is asked for the passphrase.
func (m *Mover) readArchive(ctx context.Context, c keyring.Caller, path string) ([]archive.Collection, error) {
	var found []archive.Collection
	read := func(passphrase func() (secret.Bytes, error)) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		found, err = archive.Read(f, passphrase)
		return err
	}
	// The first look says whether a passphrase is needed at all.
	err := read(func() (secret.Bytes, error) { return secret.Bytes{}, errNeedsPassphrase })
	if errors.Is(err, errNeedsPassphrase) {
		err = m.ask(ctx, c, path, "the archive "+filepath.Base(path), "read it, to import what is in it", func(auth secret.Bytes) error {
			err := read(func() (secret.Bytes, error) { return auth.Clone(), nil })
			if errors.Is(err, archive.ErrPassphrase) {
				return wrong(err)
			}
			return err
		})
	}
	if err == nil || isOurs(err) || ctx.Err() != nil {
		return found, err
	}
	return nil, fmt.Errorf("%w: %w", sentinel(err), err)
}

var errNeedsPassphrase = errors.New("a passphrase is needed")

// isOurs reports whether an error says already what kind it is.
func isOurs(err error) bool {
	for _, e := range keyring.Errors {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
