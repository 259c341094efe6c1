package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// A Parent is the public half of a storage key that keys can be wrapped for,
// from whatever machine. It does not prove that a TPM holds the other half: who
// wraps a key for it must know where it came from.
type Parent struct {
	// Handle and RSA are where the TPM has it, as key files say it: see
	// keyfile.File.Parent and RSAParent.
	Handle uint32
	RSA    bool

	area []byte // TPMT_PUBLIC
	pub  *tpm2.TPMTPublic
}

// Name is the parent's TPM name in hex, for two people to compare.
func (p *Parent) Name() string {
	name, err := nameOf(p.area)
	if err != nil {
		return ""
	}
	return hex.EncodeToString(name)
}

// The words of a parent's text form. The PEM block is one that openssl reads
// (SubjectPublicKeyInfo) where the rest of the public area is what everybody
// expects, and else the whole area.
const (
	parentLine = "TPM parent: "
	nameLine   = "TPM name: "
	guardSPKI  = "PUBLIC KEY"
	guardArea  = "TPM2B PUBLIC"
)

// Text writes the parent for another machine, as [ParseParent] reads it.
func (p *Parent) Text() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s0x%08x\n%s%s\n", parentLine, p.Handle, nameLine, p.Name())
	block := &pem.Block{Type: guardArea, Bytes: tpm2.Marshal(tpm2.TPM2BData{Buffer: p.area})}
	if formH2.matches(p.pub) || formH1.matches(p.pub) {
		public, err := tpm2.Pub(*p.pub)
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return nil, fmt.Errorf("parent: %w", err)
		}
		block = &pem.Block{Type: guardSPKI, Bytes: der}
	}
	return append(b.Bytes(), pem.EncodeToMemory(block)...), nil
}

// ParseParent reads what [Parent.Text] writes, and what other tools do: a
// TPM2B_PUBLIC (tpm2_readpublic -o), or a SubjectPublicKeyInfo in PEM, which is
// taken for a storage root key of the usual template. Where the text does not
// say under which handle the other TPM has it, its owner's hierarchy is meant.
func ParseParent(data []byte) (*Parent, error) {
	p := &Parent{Handle: uint32(tpm2.TPMRHOwner)}
	var name string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, parentLine); ok {
			h, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 32)
			if err != nil {
				return nil, fmt.Errorf("parent %q is not a handle", text)
			}
			p.Handle = uint32(h)
		}
		if text, ok := strings.CutPrefix(line, nameLine); ok {
			name = text
		}
	}
	if err := p.read(data); err != nil {
		return nil, err
	}
	if _, err := parentOf(p.Handle, p.RSA, false); err != nil {
		return nil, err
	}
	a := p.pub.ObjectAttributes
	switch {
	case !a.Restricted || !a.Decrypt || a.SignEncrypt:
		return nil, fmt.Errorf("%w: that key is no storage key, so that no other can be put under it", ErrUnsupported)
	case name != "" && name != p.Name():
		return nil, fmt.Errorf("the parent's name is %s, and not %s as the text says: it was changed, or is damaged", p.Name(), name)
	}
	return p, nil
}

func (p *Parent) read(data []byte) error {
	area, err := content2B(data) // the file of tpm2_readpublic
	if err != nil {
		block, _ := pem.Decode(data)
		switch {
		case block == nil:
			return errors.New("no public key of a TPM's storage key in it")
		case block.Type == guardSPKI:
			return p.template(block.Bytes)
		case block.Type != guardArea:
			return fmt.Errorf("it holds %q, not the public key of a TPM's storage key", block.Type)
		}
		if area, err = content2B(block.Bytes); err != nil {
			return fmt.Errorf("parent: %w", err)
		}
	}
	pub, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil || !bytes.Equal(tpm2.Marshal(pub), area) {
		return errors.New("parent: not a whole public area")
	}
	p.area, p.pub = area, pub
	// A primary whose template is the RSA one can only be named so.
	p.RSA = formH1.matches(pub) && p.Handle>>24 == uint32(tpm2.TPMHTPermanent)
	return nil
}

// template puts a public key into the template that everybody uses.
func (p *Parent) template(der []byte) error {
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return fmt.Errorf("%w: a storage root key is on P-256, not %s", ErrUnsupported, k.Curve.Params().Name)
		}
		p.pub = formH2.template()
		if p.pub.Unique, err = point(k); err != nil {
			return err
		}
	case *rsa.PublicKey:
		if k.N.BitLen() != 2048 || k.E != 65537 {
			return fmt.Errorf("%w: a storage root key has 2048 bits, not %d", ErrUnsupported, k.N.BitLen())
		}
		p.pub = formH1.template()
		p.pub.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
		p.RSA = p.Handle>>24 == uint32(tpm2.TPMHTPermanent)
	default:
		return fmt.Errorf("%w: a storage root key of type %T", ErrUnsupported, public)
	}
	p.area = tpm2.Marshal(p.pub)
	return nil
}

func point(k *ecdsa.PublicKey) (tpm2.TPMUPublicID, error) {
	b, err := k.Bytes()
	if err != nil {
		return tpm2.TPMUPublicID{}, err
	}
	n := (len(b) - 1) / 2 // 4, x, y
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: b[1 : 1+n]},
		Y: tpm2.TPM2BECCParameter{Buffer: b[1+n:]},
	}), nil
}

// Parent returns the public half of this TPM's storage key at a handle, 0 for
// the owner hierarchy's, so that keys can be wrapped for it elsewhere.
func (d *Device) Parent(ctx context.Context, handle uint32) (*Parent, error) {
	id, err := Template{Parent: handle}.parent()
	if err != nil {
		return nil, err
	}
	var p *Parent
	err = d.whole(ctx, func(_ context.Context, s *space) error {
		lp, err := s.parent(id)
		if err != nil {
			return err
		}
		if lp.tentative {
			if lp, err = s.settle(lp); err != nil {
				return err
			}
		}
		p = &Parent{Handle: id.handle, area: tpm2.Marshal(lp.pub), pub: lp.pub}
		return nil
	})
	return p, err
}

// Importable says why a private key cannot be put into a TPM, nil if it can be
// tried.
func Importable(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if _, err := curveOf(k); err != nil {
			return err
		}
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n%1024 != 0 || n > 16384 {
			return fmt.Errorf("%w: no TPM takes an RSA key of %d bits", ErrUnsupported, n)
		}
		return nil
	case ed25519.PublicKey:
		return fmt.Errorf("%w: no TPM can use an ed25519 key: TPM 2.0 has ECDSA on the NIST curves, and RSA", ErrUnsupported)
	}
	return fmt.Errorf("%w: no TPM can use a key of type %T", ErrUnsupported, key)
}

func curveOf(k *ecdsa.PublicKey) (tpm2.TPMECCCurve, error) {
	switch k.Curve {
	case elliptic.P256():
		return tpm2.TPMECCNistP256, nil
	case elliptic.P384():
		return tpm2.TPMECCNistP384, nil
	case elliptic.P521():
		return tpm2.TPMECCNistP521, nil
	}
	return 0, fmt.Errorf("%w: TPM keys on the curve %s", ErrUnsupported, k.Curve.Params().Name)
}

// Wrap makes an importable file of a private key, an *ecdsa.PrivateKey or
// *rsa.PrivateKey, that only the TPM with the parent can use. It needs no TPM.
// The t's algorithm and parent are not looked at; PCRs are those of a TPM and
// cannot be given here. auth will be the key's auth value, empty for none.
//
// The outer wrapper alone is used, keyed with a seed that is encrypted to the
// parent. Part 1, "Outer Duplication Wrapper".
func Wrap(key crypto.Signer, parent *Parent, t Template, auth secret.Bytes) (*keyfile.File, error) {
	if len(t.PCRs) > 0 {
		return nil, fmt.Errorf("%w: the registers of another machine are not known here", ErrUnsupported)
	}
	if err := checkAuth(auth); err != nil {
		return nil, err
	}
	return wrap(key, parent, t, auth, policy{})
}

func wrap(key crypto.Signer, parent *Parent, t Template, auth secret.Bytes, p policy) (*keyfile.File, error) {
	if err := Importable(key.Public()); err != nil {
		return nil, err
	}
	area, parts, err := software(key, shared(auth, p), p)
	if err != nil {
		return nil, err
	}
	defer clear(parts)
	plain := sensitive(area.Type, parts, auth)
	defer clear(plain)
	name, err := nameOf(tpm2.Marshal(area))
	if err != nil {
		return nil, err
	}
	to, err := tpm2.ImportEncapsulationKey(parent.pub)
	if err != nil {
		return nil, fmt.Errorf("%w: wrap for that parent: %w", ErrUnsupported, err)
	}
	duplicate, seed, err := tpm2.CreateDuplicate(rand.Reader, to, name, plain)
	if err != nil {
		return nil, fmt.Errorf("wrap: %w", err)
	}
	file := &keyfile.File{
		Type:        keyfile.Importable,
		Description: t.Description,
		Policy:      p.steps,
		Parent:      parent.Handle,
		RSAParent:   parent.RSA,
		Public:      tpm2.Marshal(tpm2.New2B(*area)),
		Private:     tpm2.Marshal(tpm2.TPM2BPrivate{Buffer: duplicate}),
		Secret:      tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: seed}),
	}
	return finish(file, auth.Len() > 0)
}

// software returns the public area of a software key and its secret part, which
// is the caller's to clear: d of ECDSA, one prime of RSA.
func software(key crypto.Signer, attributes tpm2.TPMAObject, p policy) (*tpm2.TPMTPublic, []byte, error) {
	attributes.SignEncrypt = true
	area := &tpm2.TPMTPublic{
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes,
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: p.digest},
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		curve, err := curveOf(&k.PublicKey)
		if err != nil {
			return nil, nil, err
		}
		area.Type = tpm2.TPMAlgECC
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve})
		if area.Unique, err = point(&k.PublicKey); err != nil {
			return nil, nil, err
		}
		d, err := k.Bytes()
		return area, d, err
	case *rsa.PrivateKey:
		if len(k.Primes) != 2 {
			return nil, nil, fmt.Errorf("%w: a TPM takes RSA keys of two primes, not of %d", ErrUnsupported, len(k.Primes))
		}
		area.Type = tpm2.TPMAlgRSA
		area.ObjectAttributes.Decrypt = true                                // see keyArea
		parms := &tpm2.TPMSRSAParms{KeyBits: tpm2.TPMKeyBits(k.N.BitLen())} // Importable bounds it
		if k.E != 65537 {
			parms.Exponent = uint32(k.E) // crypto/rsa bounds it
		}
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, parms)
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
		return area, prime(k.Primes[0], k.N.BitLen()/16), nil
	}
	return nil, nil, fmt.Errorf("%w: a private key of type %T", ErrUnsupported, key)
}

func prime(p *big.Int, size int) []byte {
	return p.FillBytes(make([]byte, max(size, (p.BitLen()+7)/8)))
}

// sensitive marshals a TPMT_SENSITIVE, by hand so that it can be cleared. Part
// 2, "TPMT_SENSITIVE".
func sensitive(kind tpm2.TPMIAlgPublic, parts []byte, auth secret.Bytes) []byte {
	var out []byte
	auth.Use(func(auth []byte) {
		out = make([]byte, 0, 2+2+len(auth)+2+2+len(parts))
		out = append(out, byte(kind>>8), byte(kind))
		out = append(append(out, 0, byte(len(auth))), auth...) // at most MaxAuth
		out = append(out, 0, 0)                                // seedValue, which only storage keys need
		out = append(out, byte(len(parts)>>8), byte(len(parts)))
		out = append(out, parts...)
	})
	return out
}

// Import puts a software key into this TPM and returns its file, loadable, once
// a signature of it was checked. The key goes to the TPM wrapped for the parent,
// whose name was checked before.
//
// It takes the commands of [Device.Create] with Import for Create.
func (d *Device) Import(ctx context.Context, key crypto.Signer, t Template, auth secret.Bytes) (*keyfile.File, error) {
	if err := checkAuth(auth); err != nil {
		return nil, err
	}
	if err := Importable(key.Public()); err != nil {
		return nil, err
	}
	mine := auth.Clone()
	var file *keyfile.File
	err := d.whole(ctx, func(_ context.Context, s *space) error {
		id, err := t.parent()
		if err != nil {
			return err
		}
		p, _, err := s.parentSession(id)
		if err != nil {
			return err
		}
		pol, err := s.policyFor(t.PCRs, mine.Len() > 0)
		if err != nil {
			return err
		}
		to := &Parent{Handle: id.handle, area: tpm2.Marshal(p.pub), pub: p.pub}
		file, err = wrap(key, to, t, mine, pol)
		return err
	})
	var made *keyfile.File
	if err == nil {
		made, err = d.Localize(ctx, file)
	}
	if err == nil {
		err = d.Prove(ctx, made, mine)
	}
	release(ctx, mine)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	return made, nil
}

// Localize makes a loadable file of an importable one that was made for this
// TPM, so that it need not be imported again at each start. A file that is
// loadable already comes back as it is. The key's auth value stays what it was,
// and is not needed.
func (d *Device) Localize(ctx context.Context, f *keyfile.File) (*keyfile.File, error) {
	if f.Type != keyfile.Importable && len(f.Secret) == 0 {
		return f, nil
	}
	k, err := d.object(f)
	if err != nil {
		return nil, err
	}
	err = d.whole(ctx, func(ctx context.Context, s *space) error {
		return s.withObject(ctx, k, func(tpm2.TPMHandle) error { return nil })
	})
	if err != nil {
		return nil, err
	}
	// What loading it has remembered: it was imported under one parent only.
	var private []byte
	k.mu.Lock()
	for _, b := range k.imported {
		private = b
	}
	k.mu.Unlock()
	local := *f
	if local.Type == keyfile.Importable {
		local.Type = keyfile.Loadable
	}
	local.Secret = nil
	local.Private = tpm2.Marshal(tpm2.TPM2BPrivate{Buffer: private})
	return finish(&local, f.NeedsAuth())
}

// object is [Device.Key] for anything that can be loaded, also sealed data and
// keys that cannot sign.
func (d *Device) object(f *keyfile.File) (*Key, error) {
	parent, err := parentOf(f.Parent, f.RSAParent, f.Legacy)
	if err != nil {
		return nil, err
	}
	k := &Key{d: d, parent: parent, needsAuth: f.NeedsAuth(), counted: f.DAProtected(), imported: make(map[string][]byte)}
	if k.area, err = content2B(f.Public); err != nil {
		return nil, fmt.Errorf("public area: %w", err)
	}
	if k.blob, err = content2B(f.Private); err != nil {
		return nil, fmt.Errorf("private area: %w", err)
	}
	if len(f.Secret) > 0 {
		if k.seed, err = content2B(f.Secret); err != nil {
			return nil, fmt.Errorf("secret: %w", err)
		}
	}
	if k.pub, err = f.PublicArea(); err != nil {
		return nil, err
	}
	name, err := nameOf(k.area)
	if err != nil {
		return nil, err
	}
	k.name = tpm2.TPM2BName{Buffer: name}
	if k.policy, k.alternatives, err = parsePolicy(f); err != nil {
		return nil, err
	}
	return k, nil
}

// withObject calls fn with the object loaded, for as long as that runs: it is
// not kept, as keys are that sign.
func (s *space) withObject(ctx context.Context, k *Key, fn func(h tpm2.TPMHandle) error) error {
	h, err := s.load(ctx, k, false)
	if err != nil {
		return err
	}
	// Its parent may make room for what fn needs.
	s.inUsePar = nil
	err = fn(h)
	if flushErr := s.flush(h); err == nil {
		err = flushErr
	}
	return err
}
