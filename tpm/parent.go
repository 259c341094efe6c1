package tpm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
)

// A form says which key of a hierarchy is the parent.
type form int

const (
	formPersistent form = iota // the handle itself is the parent
	formH2                     // EK Credential Profile B.4.5: NIST P-256
	formH1                     // B.4.4: RSA-2048
	formLegacy                 // as H-2, but neither fixedTPM nor fixedParent: files with the old guard
)

// A parentID names the parent of a key file.
type parentID struct {
	handle uint32
	form   form
}

// String names the parent for a person and, being stable, in the file of
// trusted parents.
func (id parentID) String() string {
	switch id.form {
	case formH2:
		return fmt.Sprintf("0x%08x/ecc", id.handle)
	case formH1:
		return fmt.Sprintf("0x%08x/rsa", id.handle)
	case formLegacy:
		return fmt.Sprintf("0x%08x/legacy", id.handle)
	}
	return fmt.Sprintf("0x%08x", id.handle)
}

// parentOf says which parent a key file asks for. Draft-bottomley-tpm2-keys,
// "parent".
func parentOf(handle uint32, rsa, legacy bool) (parentID, error) {
	switch {
	case handle>>24 == uint32(tpm2.TPMHTPersistent):
		return parentID{handle, formPersistent}, nil
	case handle == uint32(tpm2.TPMRHOwner), handle == uint32(tpm2.TPMRHEndorsement),
		handle == uint32(tpm2.TPMRHPlatform), handle == uint32(tpm2.TPMRHNull):
		switch {
		case legacy:
			return parentID{handle, formLegacy}, nil
		case rsa:
			return parentID{handle, formH1}, nil
		}
		return parentID{handle, formH2}, nil
	}
	return parentID{}, fmt.Errorf("parent 0x%08x: %w", handle, ErrUnsupported)
}

// template returns the template of a primary. Its unique field is empty, not
// zeros as in the templates that go-tpm brings: that would be another key.
func (f form) template() *tpm2.TPMTPublic {
	t := &tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            f != formLegacy,
			FixedParent:         f != formLegacy,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			Restricted:          true,
			Decrypt:             true,
		},
	}
	aes := tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
	if f == formH1 {
		t.Type = tpm2.TPMAlgRSA
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: aes, KeyBits: 2048})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
		return t
	}
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: aes, CurveID: tpm2.TPMECCNistP256})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

// matches says whether a public area was made from the form's template, going
// by everything but the key itself.
func (f form) matches(pub *tpm2.TPMTPublic) bool {
	t := f.template()
	if f == formPersistent || pub.Type != t.Type {
		return false
	}
	blank := *pub
	blank.Unique = t.Unique
	return bytes.Equal(tpm2.Marshal(&blank), tpm2.Marshal(t))
}

// nameOf computes the Name of an object from its public area: Part 1, "Names".
// What the TPM, or somebody on the way, says the name is does not count.
func nameOf(area []byte) ([]byte, error) {
	if len(area) < 4 {
		return nil, errors.New("a public area without a name algorithm")
	}
	alg := tpm2.TPMIAlgHash(binary.BigEndian.Uint16(area[2:]))
	hash, err := alg.Hash()
	if err != nil {
		return nil, fmt.Errorf("name algorithm: %w", err)
	}
	h := hash.New()
	h.Write(area)
	return h.Sum(binary.BigEndian.AppendUint16(nil, uint16(alg))), nil
}

// A parent is what is known of one in this epoch.
type parent struct {
	id   parentID
	pub  *tpm2.TPMTPublic
	name []byte
	// handle is where it is persistent, 0 if it has to be made.
	handle tpm2.TPMHandle
	// tentative: it has the right template, but nothing was loaded under it yet.
	tentative bool
	// blind: it was not even read: see blindParent.
	blind bool
}

// A loadedParent is a parent that has a handle now.
type loadedParent struct {
	*parent
	handle tpm2.TPMHandle
}

func (p *loadedParent) persistent() bool { return p.parent.handle != 0 }

func (p *loadedParent) named() tpm2.NamedHandle {
	return tpm2.NamedHandle{Handle: p.handle, Name: tpm2.TPM2BName{Buffer: p.name}}
}

// storageRoot is where systems keep the storage root key: TCG Provisioning
// Guidance, "Storage Primary Key".
const storageRoot = 0x81000001

// parent returns the parent with a handle, making or loading it if need be. It
// is not evicted until the turn ends.
func (s *space) parent(id parentID) (*loadedParent, error) {
	if p := s.parents[id]; p != nil {
		s.inUsePar = p
		return p, nil
	}
	known := s.d.parent(id)
	if known == nil {
		var err error
		if known, err = s.findParent(id); err != nil {
			return nil, err
		}
	}
	if known != nil && known.handle != 0 {
		p := &loadedParent{known, known.handle}
		s.inUsePar = p
		return p, nil
	}
	if saved, ok := s.savedPar[id]; ok && known != nil {
		if err := s.makeRoom(1, false); err != nil {
			return nil, err
		}
		rsp, err := tpm2.ContextLoad{Context: saved}.Execute(s)
		if err != nil {
			return nil, staleIf(fmt.Errorf("load a saved parent: %w", err), tpm2.TPMRCIntegrity, tpm2.TPMRCHandle)
		}
		return s.keepParent(&loadedParent{known, tpm2.TPMHandle(rsp.LoadedHandle)}), nil
	}
	return s.createParent(id)
}

func (s *space) keepParent(p *loadedParent) *loadedParent {
	s.parents[p.id] = p
	s.inUsePar = p
	return p
}

// findParent looks for a persistent key that is, or may be, the parent. It
// returns nil if the parent has to be made.
func (s *space) findParent(id parentID) (*parent, error) {
	if id.form == formPersistent {
		p, err := s.readParent(id, tpm2.TPMHandle(id.handle))
		if err != nil {
			return nil, err
		}
		if p == nil {
			return nil, fmt.Errorf("%w: it has no key at 0x%08x, under which the key file was made", ErrWrongTPM, id.handle)
		}
		s.d.learnParent(p)
		return p, nil
	}
	if id.handle != uint32(tpm2.TPMRHOwner) {
		return nil, nil
	}
	root, ok := s.d.root()
	if !ok {
		p, err := s.readParent(parentID{storageRoot, formPersistent}, storageRoot)
		if err != nil {
			return nil, err
		}
		root = s.d.learnRoot(p)
	}
	if root == nil || !id.form.matches(root.pub) {
		return nil, nil
	}
	p := &parent{id: id, pub: root.pub, name: root.name, handle: storageRoot, tentative: true}
	s.d.learnParent(p)
	return p, nil
}

// readParent reads a persistent key, nil if there is none.
func (s *space) readParent(id parentID, h tpm2.TPMHandle) (*parent, error) {
	// TPM2_ReadPublic uses a slot for as long as it runs.
	rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(s)
	if isAny(err, tpm2.TPMRCHandle) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read parent %s: %w", id, err)
	}
	return newParent(id, rsp.OutPublic.Bytes(), h)
}

func newParent(id parentID, area []byte, h tpm2.TPMHandle) (*parent, error) {
	name, err := nameOf(area)
	if err != nil {
		return nil, fmt.Errorf("parent %s: %w", id, err)
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, fmt.Errorf("parent %s: %w", id, err)
	}
	return &parent{id: id, pub: pub, name: name, handle: h}, nil
}

// createParent makes a primary. The same template gives the same key until the
// TPM is cleared.
func (s *space) createParent(id parentID) (*loadedParent, error) {
	auth, err := s.entityAuth(id.handle, tpm2.HandleName(tpm2.TPMHandle(id.handle)), false)
	if err != nil {
		return nil, err
	}
	if err := s.makeRoom(1, false); err != nil {
		return nil, err
	}
	rsp, err := s.createPrimary(id, auth)
	if err != nil {
		return nil, s.entityRefused(id.handle, fmt.Errorf("make parent %s: %w", id, err))
	}
	p, err := newParent(id, rsp.OutPublic.Bytes(), 0)
	if err != nil {
		return nil, err
	}
	if !id.form.matches(p.pub) {
		return nil, fmt.Errorf("make parent %s: the TPM made another kind of key", id)
	}
	if known := s.d.parent(id); known == nil || !known.tentative {
		s.d.learnParent(p)
	}
	return s.keepParent(&loadedParent{p, rsp.ObjectHandle}), nil
}

func (s *space) createPrimary(id parentID, auth tpm2.Session) (*tpm2.CreatePrimaryResponse, error) {
	return tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(id.handle), Auth: auth},
		InPublic:      tpm2.New2B(*id.form.template()),
	}.Execute(s)
}

// dropTransient flushes the parents before a key is used, so that a resource
// manager does not swap them in and out with it.
func (s *space) dropTransient() error {
	s.inUsePar = nil
	for id, p := range s.parents {
		delete(s.parents, id)
		if err := s.flush(p.handle); err != nil {
			return err
		}
	}
	return nil
}

// Knowledge of parents that all spaces share; it ends with the epoch.

func (d *Device) parent(id parentID) *parent {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.parents[id]
}

func (d *Device) learnParent(p *parent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parents[p.id] = p
}

// root returns the key at storageRoot, nil if there is none, and whether it was
// looked for.
func (d *Device) root() (*parent, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rootKey, d.rootRead
}

func (d *Device) learnRoot(p *parent) *parent {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rootKey, d.rootRead = p, true
	return p
}

// confirm notes that a key could be loaded under a tentative parent.
func (d *Device) confirm(p *parent) {
	if !p.tentative {
		return
	}
	sure := *p
	sure.tentative = false
	d.learnParent(&sure)
}

// Authorization of parents, hierarchies and whatever else is not the key.

var errNeedAuth = errors.New("an auth value is needed")

// A needAuthError ends a turn in order to ask for an auth value outside of it.
type needAuthError struct {
	handle uint32
	retry  bool // the one that was known is wrong
	err    error
}

func (e *needAuthError) Error() string {
	return fmt.Sprintf("%s is protected by a password of its own", handleName(e.handle))
}
func (e *needAuthError) Is(target error) bool { return target == errNeedAuth }

// entityAuth returns what authorizes an entity: nothing, or the auth value that
// was asked for, through a salted session. With ask set, the value is asked for
// instead of trying first whether there is none.
func (s *space) entityAuth(handle uint32, name tpm2.TPM2BName, ask bool) (tpm2.Session, error) {
	auth, ok := s.d.auth(handle)
	switch {
	case !ok && ask && s.d.o.ParentAuth != nil:
		return nil, &needAuthError{handle: handle}
	case !ok || auth.Len() == 0:
		return empty(), nil
	}
	salt, err := s.saltFor(handle, name)
	if err != nil {
		return nil, err
	}
	ses, err := s.hmacSession(salt)
	if err != nil {
		return nil, err
	}
	return ses.with(auth, true), nil
}

// saltFor returns a parent that a session for an auth value may be salted to.
// An object is asked for with a session to itself, if it can decrypt; for a
// hierarchy there is nothing yet whose name could be known, so that a key made
// for the purpose keeps out those who only listen.
func (s *space) saltFor(handle uint32, name tpm2.TPM2BName) (*loadedParent, error) {
	if s.hmac.usable() {
		return nil, nil // it will be used as it is
	}
	if handle>>24 == uint32(tpm2.TPMHTPersistent) {
		if p := s.d.parent(parentID{handle, formPersistent}); p != nil && bytes.Equal(p.name, name.Buffer) {
			return &loadedParent{p, p.handle}, s.d.pins.check(p)
		}
	}
	id := parentID{uint32(tpm2.TPMRHNull), formH2}
	if p := s.parents[id]; p != nil {
		return p, nil
	}
	if err := s.makeRoom(1, false); err != nil {
		return nil, err
	}
	rsp, err := s.createPrimary(id, empty())
	if err != nil {
		return nil, fmt.Errorf("make a key to salt a session: %w", err)
	}
	p, err := newParent(id, rsp.OutPublic.Bytes(), 0)
	if err != nil {
		return nil, err
	}
	lp := &loadedParent{p, rsp.ObjectHandle}
	s.parents[id] = lp
	return lp, nil
}

// entityRefused turns the refusal of an entity's auth value into the wish to be
// told one.
func (s *space) entityRefused(handle uint32, err error) error {
	if !isAuth(err) {
		return s.refused(err)
	}
	if isAny(err, tpm2.TPMRCAuthFail) {
		_ = s.refused(err) // keeps count
	}
	had := s.d.dropAuth(handle)
	return &needAuthError{handle, had, err}
}

func (d *Device) auth(handle uint32) (secret.Bytes, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.auths[handle]
	return a, ok
}

func (d *Device) dropAuth(handle uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	a, ok := d.auths[handle]
	a.Wipe()
	delete(d.auths, handle)
	return ok
}

// askAuth asks for the auth value of an entity, once however many want it. No
// lock is held meanwhile.
func (d *Device) askAuth(ctx context.Context, need *needAuthError) error {
	if d.o.ParentAuth == nil {
		return fmt.Errorf("%w: %s: %w", ErrAuthFailed, need.Error(), need.err)
	}
	d.mu.Lock()
	if others, ok := d.asking[need.handle]; ok {
		d.mu.Unlock()
		select {
		case <-others:
			return nil // go and see whether it is known now
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if a, ok := d.auths[need.handle]; ok && !need.retry && a.Len() > 0 {
		d.mu.Unlock()
		return nil
	}
	done := make(chan struct{})
	d.asking[need.handle] = done
	d.mu.Unlock()

	auth, err := d.o.ParentAuth(ctx, need.handle, need.retry)

	d.mu.Lock()
	delete(d.asking, need.handle)
	if err == nil {
		d.auths[need.handle] = auth
	}
	d.mu.Unlock()
	close(done)
	if err != nil {
		return fmt.Errorf("%s: %w", need.Error(), err)
	}
	return nil
}
