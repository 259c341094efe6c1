package sshhelper

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// Messages of ssh-pkcs11-helper, numbered as the agent's (RFC 9987 §6.1).
const (
	msgFailure         = 5
	msgSuccess         = 6
	msgIdentities      = 12
	msgSignRequest     = 13
	msgSignResponse    = 14
	msgAddSmartcard    = 20
	msgRemoveSmartcard = 21
)

// Reasons for not loading a library (ssh-pkcs11.h).
const (
	errLoginFail   = 2
	errPINRequired = 4
	errPINLocked   = 5
)

// maxCardKeys bounds how many keys of one library are taken.
const maxCardKeys = 1024

// A card is a library that is loaded, in a process of its own.
type card struct {
	library string
	child   *child
}

// AddCard loads a library.
func (p *Programs) AddCard(ctx context.Context, library string, pin secret.Bytes) ([]keyring.Key, error) {
	path, err := find(p.PKCS11, PKCS11Helper)
	if err != nil {
		return nil, err
	}
	// Loaded again in a process of its own: the one that there is goes on until
	// the new one is known to work.
	child, err := start(p.Starter, path, p.Environ)
	if err != nil {
		return nil, err
	}
	c := &card{library, child}
	keys, err := c.load(ctx, pin)
	child.log(p.Log)
	if err != nil {
		child.close()
		return nil, err
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		child.close()
		return nil, keyring.ErrUnavailable
	}
	before := p.cards[library]
	if p.cards == nil {
		p.cards = map[string]*card{}
	}
	p.cards[library] = c
	p.mu.Unlock()
	if before != nil {
		before.child.close()
	}
	return keys, nil
}

// RemoveCard unloads a library.
func (p *Programs) RemoveCard(_ context.Context, library string) error {
	p.mu.Lock()
	c := p.cards[library]
	delete(p.cards, library)
	p.mu.Unlock()
	if c == nil {
		return fmt.Errorf("%w: %s is not loaded", keyring.ErrNotFound, library)
	}
	c.child.close()
	return nil
}

func (c *card) load(ctx context.Context, pin secret.Bytes) ([]keyring.Key, error) {
	request := appendString([]byte{msgAddSmartcard}, c.library)
	pin.Use(func(b []byte) { request = appendString(request, b) })
	reply, err := c.child.ask(ctx, request)
	clear(request)
	if err != nil {
		return nil, err
	}
	d := decoder{rest: reply}
	if kind := d.byte(); kind != msgIdentities {
		return nil, c.refused(kind, d.uint32())
	}
	n := d.uint32()
	if n > maxCardKeys {
		return nil, errReply
	}
	var keys []keyring.Key
	for range n {
		blob, label := d.string(), d.string()
		if d.bad {
			return nil, errReply
		}
		if k, err := c.key(blob, string(label)); err == nil {
			keys = append(keys, k) // others are of a kind that is not served
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: %s shows no key", keyring.ErrNotFound, c.library)
	}
	return keys, nil
}

// refused is why a library was not loaded.
func (c *card) refused(kind byte, reason uint32) error {
	if kind != msgFailure {
		return errReply
	}
	switch reason {
	case errLoginFail, errPINRequired:
		return fmt.Errorf("%w for %s", keyring.ErrAuthFailed, c.library)
	case errPINLocked:
		return fmt.Errorf("%w: the PIN of %s is locked", keyring.ErrDenied, c.library)
	}
	return fmt.Errorf("%w: %s shows no key, or cannot be loaded%s", keyring.ErrUnavailable, c.library, c.child.said)
}

// A cardKey is a key of a card.
type cardKey struct {
	card *card
	blob []byte // SSH wire form
	info keyring.KeyInfo
}

func (c *card) key(blob []byte, label string) (*cardKey, error) {
	parsed, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, err
	}
	with, ok := parsed.(ssh.CryptoPublicKey)
	if !ok {
		return nil, keyring.ErrUnsupported
	}
	public := with.CryptoPublicKey()
	switch public.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
	default:
		return nil, keyring.ErrUnsupported
	}
	id, err := keyring.NewKeyID(public)
	if err != nil {
		return nil, err
	}
	return &cardKey{c, append([]byte(nil), blob...), keyring.KeyInfo{ID: id, Label: label, Kind: keyring.KindAdded, Public: public}}, nil
}

// Info returns what is known of the key.
func (k *cardKey) Info() keyring.KeyInfo { return k.info }

// Sign has the card sign.
func (k *cardKey) Sign(ctx context.Context, _ secret.Bytes, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	input, err := k.input(digest, opts)
	if err != nil {
		return nil, err
	}
	if !k.card.child.alive() {
		return nil, fmt.Errorf("%w: the helper of %s has ended; add the card again", keyring.ErrUnavailable, k.card.library)
	}
	request := appendString(appendString([]byte{msgSignRequest}, k.blob), input)
	// Whoever hangs up, perhaps on another machine, must not take the card away.
	reply, err := k.card.child.askToTheEnd(ctx, binary.BigEndian.AppendUint32(request, 0))
	if err != nil {
		return nil, err
	}
	d := decoder{rest: reply}
	kind, sig := d.byte(), d.string()
	switch {
	case kind == msgFailure:
		return nil, fmt.Errorf("%w: the card of %s did not sign", keyring.ErrUnavailable, k.card.library)
	case kind != msgSignResponse || d.bad || !k.verify(digest, opts, sig):
		return nil, errReply
	}
	return append([]byte(nil), sig...), nil
}

// input is what the helper wants to sign: a digest for ECDSA, a DigestInfo (RFC
// 8017 §9.2) for RSA.
func (k *cardKey) input(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash := opts.HashFunc()
	if hash == 0 || hash.Size() != len(digest) {
		return nil, fmt.Errorf("%w: a card signs digests", keyring.ErrUnsupported)
	}
	if _, isRSA := k.info.Public.(*rsa.PublicKey); !isRSA {
		return digest, nil
	}
	if _, pss := opts.(*rsa.PSSOptions); pss {
		return nil, fmt.Errorf("%w: RSA-PSS by a card", keyring.ErrUnsupported)
	}
	oid, ok := digestOIDs[hash]
	if !ok {
		return nil, fmt.Errorf("%w: %v by a card", keyring.ErrUnsupported, hash)
	}
	return asn1.Marshal(digestInfo{digestAlgorithm{oid, asn1.NullRawValue}, digest})
}

func (k *cardKey) verify(digest []byte, opts crypto.SignerOpts, sig []byte) bool {
	switch public := k.info.Public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(public, opts.HashFunc(), digest, sig) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, digest, sig)
	}
	return false
}

type digestInfo struct {
	Algorithm digestAlgorithm
	Digest    []byte
}

type digestAlgorithm struct {
	OID        asn1.ObjectIdentifier
	Parameters asn1.RawValue
}

// digestOIDs are the names of digests: RFC 8017 appendix B.1.
var digestOIDs = map[crypto.Hash]asn1.ObjectIdentifier{
	crypto.SHA1:   {1, 3, 14, 3, 2, 26},
	crypto.SHA256: {2, 16, 840, 1, 101, 3, 4, 2, 1},
	crypto.SHA384: {2, 16, 840, 1, 101, 3, 4, 2, 2},
	crypto.SHA512: {2, 16, 840, 1, 101, 3, 4, 2, 3},
}
