package tpm

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	cryptobyte_asn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// Create makes a new key in the TPM, from which its private half never comes
// out, and returns its file once a signature of it was checked. auth is the
// key's auth value, empty for none; it is borrowed, and goes to the TPM
// encrypted, in a session salted to a parent whose name was checked.
//
// A key with an auth value counts wrong tries towards the TPM's lockout; one
// without is exempt (noDA), so that somebody's wrong tries never stop it.
//
// On a fresh link it takes 6 commands: ReadPublic (is there a storage root key
// at 0x81000001?), CreatePrimary, StartAuthSession, Create, Load, Sign. Where
// there is one, a Flush more, as CreatePrimary only tells whether it is the
// hierarchy's own; under a parent that is named by its persistent handle 5, as
// nothing is made. Later keys take 3 or 4. For each eight registers there is a
// PCR_Read more, and for a key with a policy its steps. Behind a resource manager the key that is
// proven has a link of its own, for which the parent is loaded again.
//
// Creating RSA keys takes a chip from seconds to minutes; it does not stop when
// ctx ends, but its result is then thrown away.
func (d *Device) Create(ctx context.Context, t Template, auth secret.Bytes) (*keyfile.File, error) {
	if err := checkAuth(auth); err != nil {
		return nil, err
	}
	mine := auth.Clone() // the turn may outlast this call
	var made *keyfile.File
	err := d.whole(ctx, func(ctx context.Context, s *space) (err error) {
		made, err = s.create(ctx, t, mine)
		return err
	})
	if err == nil {
		err = d.Prove(ctx, made, mine)
	}
	release(ctx, mine)
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	return made, nil
}

// release wipes a copy of a secret, unless a turn may still be using it. Its
// memory wipes itself when it is collected.
func release(ctx context.Context, b secret.Bytes) {
	if ctx.Err() == nil {
		b.Wipe()
	}
}

func (s *space) create(ctx context.Context, t Template, auth secret.Bytes) (*keyfile.File, error) {
	p, err := s.policyFor(t.PCRs, auth.Len() > 0)
	if err != nil {
		return nil, err
	}
	attributes := shared(auth, p)
	attributes.FixedTPM, attributes.FixedParent, attributes.SensitiveDataOrigin = true, true, true
	attributes.Decrypt = t.Derive
	area, err := keyArea(t.Algorithm, attributes, p)
	if err != nil {
		return nil, err
	}
	file, err := s.createUnder(ctx, t, area, auth, secret.Bytes{})
	if isUnsupported(err) {
		return nil, s.lacking(t.Algorithm, err)
	}
	if err != nil {
		return nil, err
	}
	file.Policy = p.steps
	return finish(file, auth.Len() > 0)
}

// createUnder sends TPM2_Create. Both the auth value and the data, if any is to
// be sealed, are its first parameter, which the session encrypts.
func (s *space) createUnder(ctx context.Context, t Template, area *tpm2.TPMTPublic, auth, data secret.Bytes) (*keyfile.File, error) {
	id, err := t.parent()
	if err != nil {
		return nil, err
	}
	p, ses, err := s.parentSession(id)
	if t.Parent == 0 && errors.Is(err, errNeedAuth) && s.d.hasRoot() {
		// The owner has a password, and a storage root key is there that can be
		// used without: the file names that by its handle.
		id = parentID{storageRoot, formPersistent}
		p, ses, err = s.parentSession(id)
	}
	if err != nil {
		return nil, err
	}
	n := 1 // the new object passes through a slot
	if p.persistent() {
		n = 2
	}
	if err := s.makeRoom(n, true); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var rsp *tpm2.CreateResponse
	expose(auth, data, func(auth, data []byte) {
		sensitive := &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: auth}}
		if data != nil {
			sensitive.Data = tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: data})
		}
		rsp, err = tpm2.Create{
			ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.named().Name, Auth: ses},
			InSensitive:  tpm2.TPM2BSensitiveCreate{Sensitive: sensitive},
			InPublic:     tpm2.New2B(*area),
		}.Execute(s)
	})
	if err != nil {
		return nil, s.parentRefused(p, err)
	}
	return &keyfile.File{
		Type:        keyfile.Loadable,
		Description: t.Description,
		Parent:      id.handle,
		Public:      tpm2.Marshal(tpm2.TPM2BData{Buffer: rsp.OutPublic.Bytes()}),
		Private:     tpm2.Marshal(rsp.OutPrivate),
	}, nil
}

// expose gives fn two secrets as bytes, nil for an empty one.
func expose(a, b secret.Bytes, fn func(a, b []byte)) {
	a.Use(func(a []byte) { b.Use(func(b []byte) { fn(a, b) }) })
}

// parent returns the parent that the template asks for.
func (t Template) parent() (parentID, error) {
	h := t.Parent
	if h == 0 {
		h = uint32(tpm2.TPMRHOwner)
	}
	return parentOf(h, false, false)
}

// parentSession returns a parent, loaded, and the session that authorizes its
// use and encrypts what is sent along: salted to it, after its name was
// compared with the one known from before.
func (s *space) parentSession(id parentID) (*loadedParent, *session, error) {
	p, err := s.parent(id)
	if err != nil {
		return nil, nil, err
	}
	if p.tentative {
		// Whether the key at 0x81000001 is the hierarchy's own shows only when
		// it is made. A file that named the wrong one could be loaded here and
		// now, and by no other program.
		if p, err = s.settle(p); err != nil {
			return nil, nil, err
		}
	}
	if id.form == formPersistent && !p.pub.ObjectAttributes.NoDA {
		if err := s.mayTry(); err != nil {
			return nil, nil, err
		}
	}
	ses, err := s.keySession(&Key{parent: id})
	if err != nil {
		return nil, nil, err
	}
	s.inUsePar = p
	var auth secret.Bytes
	if id.form == formPersistent {
		auth, _ = s.d.auth(id.handle) // a primary's is empty by its template
	}
	return p, ses.with(auth, true), nil
}

// hasRoot says whether there is a key where systems keep the storage root key.
func (d *Device) hasRoot() bool {
	root, _ := d.root()
	return root != nil && (formH2.matches(root.pub) || formH1.matches(root.pub))
}

// settle finds out whether a tentative parent is the primary that it looks like,
// by making that.
func (s *space) settle(p *loadedParent) (*loadedParent, error) {
	made, err := s.createParent(p.id)
	if err != nil {
		return nil, err
	}
	if string(made.name) != string(p.name) {
		s.d.learnParent(made.parent)
		return made, nil
	}
	s.d.confirm(p.parent)
	delete(s.parents, p.id)
	if err := s.flush(made.handle); err != nil {
		return nil, err
	}
	s.inUsePar = p
	return p, nil
}

// finish says in the file whether there is an auth value, also where there is:
// the draft would have that left out, but tpm2-openssl 1.1.1 takes a file that
// does not say for one without, and a key that cannot be used is no key.
func finish(f *keyfile.File, needsAuth bool) (*keyfile.File, error) {
	empty := !needsAuth
	f.EmptyAuth = &empty
	der, err := f.DER()
	if err != nil {
		return nil, err
	}
	if needsAuth {
		if der, err = sayFalse(der); err != nil {
			return nil, err
		}
	}
	return keyfile.Parse(der)
}

// sayFalse puts emptyAuth FALSE behind the type of a key file, if nothing is
// said there.
func sayFalse(der []byte) ([]byte, error) {
	tag := cryptobyte_asn1.Tag(0).ContextSpecific().Constructed()
	in := cryptobyte.String(der)
	var body, oid cryptobyte.String
	if !in.ReadASN1(&body, cryptobyte_asn1.SEQUENCE) || !in.Empty() ||
		!body.ReadASN1Element(&oid, cryptobyte_asn1.OBJECT_IDENTIFIER) {
		return nil, errors.New("a key file that does not begin with its type")
	}
	if body.PeekASN1Tag(tag) {
		return der, nil
	}
	var b cryptobyte.Builder
	b.AddASN1(cryptobyte_asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(oid)
		b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddASN1Boolean(false) })
		b.AddBytes(body)
	})
	return b.Bytes()
}

// Prove loads the object of a file with an auth value that is known to be right,
// and has it sign, or gives up its data if it is sealed: after it, the file is
// good. It costs what any first use does. The TPM's counter of wrong tries is
// not looked at, as none is made.
func (d *Device) Prove(ctx context.Context, f *keyfile.File, auth secret.Bytes) error {
	if f.Type == keyfile.Sealed {
		plain, err := d.unseal(ctx, f, auth, false)
		plain.Wipe()
		return err
	}
	k, err := d.Key(f)
	if err != nil {
		return err
	}
	defer k.Close()
	k.counted = false
	switch {
	case k.shape.sign || k.shape.raw:
		hash := k.Hash()
		digest := make([]byte, hash.Size())
		_, _ = rand.Read(digest)
		// Sign checks the signature against the public key.
		_, err = k.Sign(ctx, auth, digest, hash)
	case k.shape.derive:
		err = k.proveDerive(ctx, auth)
	default:
		err = k.proveDecrypt(ctx, auth)
	}
	if err != nil {
		return fmt.Errorf("prove the key: %w", err)
	}
	return nil
}

// Hash returns a hash that the key can sign digests of: the only one, if its
// scheme is fixed.
func (k *Key) Hash() crypto.Hash {
	if k.shape.hash != 0 {
		return k.shape.hash
	}
	return crypto.SHA256
}

// A Signer is a key with its auth value at hand, for those who take a
// crypto.Signer, such as crypto/x509. It borrows both, and lives as long as
// they do.
type Signer struct {
	Context context.Context // ends a signature that is waited for
	Key     *Key
	Auth    secret.Bytes
}

// Public returns the public key.
func (s Signer) Public() crypto.PublicKey { return s.Key.public }

// Sign signs as [Key.Sign] does; the random source is the TPM's own.
func (s Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.Key.Sign(s.Context, s.Auth, digest, opts)
}
