package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// ChangeAuth gives the object of a file another auth value and returns the file
// that has it, proven; f itself stays as it is and goes on working with the old
// value: a TPM cannot revoke it, only the file can be destroyed. Either value may be empty.
// An importable file becomes a loadable one.
//
// Whether wrong tries count is part of the key and does not change with it: see
// keyfile.File.DAProtected.
//
// The old value is spent as in [Key.Sign], with the same errors. A key whose
// policy does not ask for an auth value cannot be given one.
//
// Both values go through a session salted to the parent. It takes Load,
// ObjectChangeAuth, Flush, and then Load and Sign to prove the result, beside
// what the first use of a TPM takes. TPM2_ObjectChangeAuth, Part 3.
func (d *Device) ChangeAuth(ctx context.Context, f *keyfile.File, old, fresh secret.Bytes) (*keyfile.File, error) {
	if err := checkAuth(fresh); err != nil {
		return nil, err
	}
	k, err := d.object(f)
	if err != nil {
		return nil, err
	}
	if fresh.Len() > 0 && len(k.policy) > 0 && !k.policyWantsAuth() && !k.pub.ObjectAttributes.UserWithAuth {
		return nil, fmt.Errorf("%w: the key's policy asks for no PIN, so that one would protect nothing", ErrUnsupported)
	}
	if k.pub.ObjectAttributes.AdminWithPolicy {
		return nil, fmt.Errorf("%w: the key was made so that its PIN can only be changed under a policy", ErrUnsupported)
	}
	if err := k.fits(old); err != nil {
		return nil, err
	}
	before, after := old.Clone(), fresh.Clone()
	var private []byte
	err = d.whole(ctx, func(ctx context.Context, s *space) error {
		return s.withObject(ctx, k, func(h tpm2.TPMHandle) (err error) {
			private, err = s.changeAuth(ctx, k, h, before, after)
			return err
		})
	})
	var changed *keyfile.File
	if err == nil {
		changed, err = d.changed(ctx, f, private, after)
	}
	release(ctx, before)
	release(ctx, after)
	if err != nil {
		return nil, fmt.Errorf("change the PIN: %w", err)
	}
	return changed, nil
}

// changed makes the new file and proves it.
func (d *Device) changed(ctx context.Context, f *keyfile.File, private []byte, auth secret.Bytes) (*keyfile.File, error) {
	file := *f
	if file.Type == keyfile.Importable {
		file.Type = keyfile.Loadable
	}
	file.Secret = nil
	file.Private = tpm2.Marshal(tpm2.TPM2BPrivate{Buffer: private})
	made, err := finish(&file, auth.Len() > 0)
	if err != nil {
		return nil, err
	}
	return made, d.Prove(ctx, made, auth)
}

func (s *space) changeAuth(ctx context.Context, k *Key, h tpm2.TPMHandle, old, fresh secret.Bytes) ([]byte, error) {
	ses, err := s.adminSession(k, old)
	if err != nil {
		return nil, err
	}
	p, err := s.parent(k.parent)
	if err != nil {
		return nil, err
	}
	if p.persistent() {
		if err := s.makeRoom(1, true); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var rsp *tpm2.ObjectChangeAuthResponse
	fresh.Use(func(fresh []byte) {
		rsp, err = tpm2.ObjectChangeAuth{
			ObjectHandle: tpm2.AuthHandle{Handle: h, Name: k.name, Auth: ses.with(old, true)},
			ParentHandle: p.named(),
			NewAuth:      tpm2.TPM2BAuth{Buffer: fresh},
		}.Execute(s)
	})
	if err != nil {
		return nil, s.adminRefused(err)
	}
	return rsp.OutPrivate.Buffer, nil
}

// adminSession returns the session in which an object's auth value authorizes
// what only its keeper may do (role ADMIN), if a try may be spent on it.
func (s *space) adminSession(k *Key, auth secret.Bytes) (*session, error) {
	if k.counted && (k.needsAuth || auth.Len() > 0) {
		if err := s.mayTry(); err != nil {
			return nil, err
		}
	}
	return s.keySession(k)
}

// adminRefused says what the refusal of an ADMIN command means.
func (s *space) adminRefused(err error) error {
	if isAny(err, tpm2.TPMRCAuthUnavailable, tpm2.TPMRCAuthType) {
		return fmt.Errorf("%w: the key allows that only under a policy: %w", ErrUnsupported, err)
	}
	if known(err) {
		return err
	}
	var rc tpm2.TPMRC
	if errors.As(err, &rc) && (isAuth(err) || isAny(err, tpm2.TPMRCLockout)) {
		return s.refused(err)
	}
	return staleIf(err, tpm2.TPMRCHandle)
}
