package tpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// load loads k under its parent. The persistent storage root key is tried
// first if it has the right template; whether it is the right key only shows
// when a key is loaded under it.
func (s *space) load(ctx context.Context, k *Key, near bool) (tpm2.TPMHandle, error) {
	if p := s.blindParent(k); p != nil {
		h, err := s.loadUnder(ctx, p, k, near)
		if err == nil {
			return h, nil
		}
		if isAny(err, tpm2.TPMRCHandle) {
			s.d.learnRoot(nil) // there is no such key
		} else if !isForeign(err) && !isAuth(err) {
			return 0, err
		}
	}
	p, err := s.parent(k.parent)
	if err != nil {
		return 0, err
	}
	h, err := s.loadUnder(ctx, p, k, near)
	switch {
	case err == nil:
		s.d.confirm(p.parent)
		return h, nil
	case !isForeign(err):
		return 0, err
	case !p.tentative:
		return 0, k.foreign(err)
	}
	made, makeErr := s.createParent(k.parent)
	if makeErr != nil {
		return 0, makeErr
	}
	if bytes.Equal(made.name, p.name) {
		// It is the right parent after all, and the file is a stranger's.
		delete(s.parents, k.parent)
		s.d.confirm(p.parent)
		if flushErr := s.flush(made.handle); flushErr != nil {
			return 0, flushErr
		}
		return 0, k.foreign(err)
	}
	s.d.learnParent(made.parent)
	h, err = s.loadUnder(ctx, made, k, near)
	if isForeign(err) {
		return 0, k.foreign(err)
	}
	return h, err
}

// blindParent returns the storage root key without having looked whether it is
// there, nil if that is known or k needs more of its parent than to be loaded
// under it. Loading tells whether it is the parent, and where it is, reading it
// first would be a command for nothing. Nothing secret is sent: its auth value
// is empty (TCG Provisioning Guidance).
func (s *space) blindParent(k *Key) *loadedParent {
	if k.parent.handle != uint32(tpm2.TPMRHOwner) || k.needsAuth || len(k.policy) > 0 || len(k.seed) > 0 ||
		s.parents[k.parent] != nil || s.d.parent(k.parent) != nil {
		return nil
	}
	if _, ok := s.d.root(); ok {
		return nil
	}
	// go-tpm wants a name even where nothing is computed from it.
	name := tpm2.HandleName(storageRoot).Buffer
	return &loadedParent{&parent{id: k.parent, name: name, handle: storageRoot, blind: true}, storageRoot}
}

// loadUnder loads k under p, importing it first if its file is for import.
func (s *space) loadUnder(ctx context.Context, p *loadedParent, k *Key, near bool) (tpm2.TPMHandle, error) {
	n := 1
	if p.persistent() {
		n = 2 // the TPM puts the parent into a slot for as long as the command runs
	}
	if err := s.makeRoom(n, near); err != nil {
		return 0, err
	}
	private, err := s.private(p, k)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	auth, err := s.parentAuth(p)
	if err != nil {
		return 0, err
	}
	rsp, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.named().Name, Auth: auth},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: private},
		InPublic:     k.public2B(),
	}.Execute(s)
	if err != nil {
		return 0, s.parentRefused(p, fmt.Errorf("load the key: %w", err))
	}
	return rsp.ObjectHandle, nil
}

// private returns the key's private area for Load. That of a file for import is
// made once and remembered; it is bound to the parent as in any other file.
func (s *space) private(p *loadedParent, k *Key) ([]byte, error) {
	if len(k.seed) == 0 {
		return k.blob, nil
	}
	k.mu.Lock()
	imported := k.imported[string(p.name)]
	k.mu.Unlock()
	if imported != nil {
		return imported, nil
	}
	auth, err := s.parentAuth(p)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.Import{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.named().Name, Auth: auth},
		ObjectPublic: k.public2B(),
		Duplicate:    tpm2.TPM2BPrivate{Buffer: k.blob},
		InSymSeed:    tpm2.TPM2BEncryptedSecret{Buffer: k.seed},
		Symmetric:    tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
	}.Execute(s)
	if err != nil {
		return nil, s.parentRefused(p, fmt.Errorf("import the key: %w", err))
	}
	k.mu.Lock()
	k.imported[string(p.name)] = rsp.OutPrivate.Buffer
	k.mu.Unlock()
	return rsp.OutPrivate.Buffer, nil
}

// parentAuth authorizes the use of a parent. The auth value of a primary is
// empty by its template; a persistent parent may have one, and if that is
// protected against guessing, the empty guess is not made with the last try.
func (s *space) parentAuth(p *loadedParent) (tpm2.Session, error) {
	if p.id.form != formPersistent {
		return empty(), nil
	}
	if !p.pub.ObjectAttributes.NoDA {
		if err := s.mayTry(); err != nil {
			return nil, err
		}
	}
	return s.entityAuth(p.id.handle, p.named().Name, false)
}

func (s *space) parentRefused(p *loadedParent, err error) error {
	if p.blind {
		return err
	}
	if p.id.form == formPersistent && (isAuth(err) || errors.Is(err, tpm2.TPMRCLockout)) {
		return s.entityRefused(p.id.handle, err)
	}
	return staleIf(err, tpm2.TPMRCHandle)
}

// isForeign says whether a TPM rejected a key's private area: made by another
// parent, or damaged.
func isForeign(err error) bool {
	return isAny(err, tpm2.TPMRCIntegrity, tpm2.TPMRCSensitive, tpm2.TPMRCBinding, tpm2.TPMRCSize,
		tpm2.TPMRCInsufficient, tpm2.TPMRCECCPoint) || isUnsupported(err)
}

func isUnsupported(err error) bool {
	return isAny(err, tpm2.TPMRCCurve, tpm2.TPMRCKeySize, tpm2.TPMRCAsymmetric, tpm2.TPMRCScheme, tpm2.TPMRCHash,
		tpm2.TPMRCSymmetric, tpm2.TPMRCAttributes, tpm2.TPMRCType, tpm2.TPMRCKDF, tpm2.TPMRCValue)
}

// foreign says what a rejected private area means.
func (k *Key) foreign(err error) error {
	if isUnsupported(err) {
		return fmt.Errorf("%w: this TPM cannot take this kind of key: %w", ErrUnsupported, err)
	}
	return fmt.Errorf("%w: the key file was made under another parent than %s of this TPM, or is damaged: %w", ErrWrongTPM, k.parent, err)
}
