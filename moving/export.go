package moving

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/store/archive"
)

// Export writes collections into an archive. What cannot be read of them is
// told in the Moved's notes; the rest is written all the same.
func (m *Mover) Export(ctx context.Context, r keyring.ExportRequest) ([]keyring.Moved, error) {
	ids, err := m.wanted(r.Collections)
	if err != nil {
		return nil, err
	}
	if r.Plain {
		err := m.Gate.Permit(ctx, keyring.Use{ID: "export", Subject: "every password in " + filepath.Base(r.Path), Caller: r.Caller,
			Reason: "write them into a file without encryption"}, "Whoever can read the file has all your passwords.")
		if err != nil {
			return nil, err
		}
	}
	for _, id := range ids {
		if err := m.Secrets.Unlock(ctx, r.Caller, id); err != nil {
			return nil, err
		}
	}
	var passphrase secret.Bytes
	if !r.Plain {
		passphrase, err = m.Gate.Choose(ctx, keyring.Use{ID: "export", Subject: "the archive " + filepath.Base(r.Path), Caller: r.Caller,
			Reason: "to read it again"}, maxPassphrase)
		if err != nil {
			return nil, err
		}
		defer passphrase.Wipe()
	}
	collections, all, err := m.gather(ctx, r, ids)
	defer archive.Wipe(collections)
	if err != nil {
		return nil, err
	}
	if err := m.write(r, collections, passphrase); err != nil {
		return nil, err
	}
	m.tell(r.Caller, "keyring exported", all)
	return all, nil
}

// wanted are the IDs of what the user named, or of all that is on disk.
func (m *Mover) wanted(names []string) (ids []string, err error) {
	for _, name := range names {
		id, err := m.named(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if len(names) > 0 {
		return ids, nil
	}
	if err := m.Secrets.Unreadable(); err != nil {
		return nil, fmt.Errorf("%w: %w", keyring.ErrUnavailable, err)
	}
	for _, info := range m.Secrets.Collections() {
		if info.ID != keyring.SessionCollection && !info.Created.IsZero() {
			ids = append(ids, info.ID)
		}
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%w: there is no keyring to export", keyring.ErrNotFound)
	}
	return ids, nil
}

func (m *Mover) gather(ctx context.Context, r keyring.ExportRequest, ids []string) ([]archive.Collection, []keyring.Moved, error) {
	var collections []archive.Collection
	var all []keyring.Moved
	for _, id := range ids {
		info, err := m.Secrets.Collection(id)
		if err != nil {
			return collections, nil, err
		}
		to := archive.Collection{ID: id, Label: info.Label, Created: info.Created, Modified: info.Modified}
		for _, alias := range []string{"default", keyring.LoginCollection} {
			if at, ok := m.Secrets.Alias(alias); ok && at == id && alias != id {
				to.Aliases = append(to.Aliases, alias)
			}
		}
		moved := keyring.Moved{Path: r.Path, Label: info.Label, Collection: id}
		refs, err := m.Secrets.Items(id)
		if err != nil {
			return collections, nil, err
		}
		damaged := 0
		for _, ref := range refs {
			if ctx.Err() != nil {
				collections = append(collections, to) // to be wiped
				return collections, nil, ctx.Err()
			}
			info, err := m.Secrets.Item(ref)
			if err != nil {
				damaged++
				continue
			}
			value, kind, err := m.Secrets.Secret(ctx, r.Caller, ref)
			if err != nil {
				damaged++
				continue
			}
			to.Items = append(to.Items, archive.Item{Label: info.Label, Attributes: info.Attributes, ContentType: kind,
				Secret: value, Created: info.Created, Modified: info.Modified})
		}
		if damaged > 0 {
			moved.Notes = append(moved.Notes, fmt.Sprintf("%d items cannot be read and are not in the archive.", damaged))
		}
		moved.Items = len(to.Items)
		collections, all = append(collections, to), append(all, moved)
	}
	return collections, all, nil
}

func (m *Mover) write(r keyring.ExportRequest, collections []archive.Collection, passphrase secret.Bytes) error {
	var text bytes.Buffer
	var err error
	if r.Plain {
		err = archive.WritePlain(&text, collections)
		defer func() { clear(text.Bytes()) }()
	} else {
		err = archive.Write(&text, collections, passphrase)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", keyring.ErrUnsupported, err)
	}
	file := atomicfile.File{Path: r.Path, Data: text.Bytes(), Perm: 0o600, Replace: r.Force}
	staged, err := atomicfile.Stage(nil, file)
	if err == nil {
		err = staged.Commit()
	}
	if m.Elsewhere != nil && errors.Is(err, fs.ErrPermission) {
		err = m.Elsewhere(err, file)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: %w", keyring.ErrUnsupported, err)
	case err != nil:
		return fmt.Errorf("%w: %w", keyring.ErrUnavailable, err)
	}
	return nil
}
