package sshkeys

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// open returns the private key in a file's contents. A wrong passphrase is
// errPassphrase; an unencrypted file does not look at it.
func open(data, passphrase []byte) (crypto.Signer, error) {
	block, f, err := find(data)
	if err != nil {
		return nil, err
	}
	defer clear(block.Bytes)
	switch {
	case f == formOpenSSH:
		return openOpenSSH(block, passphrase)
	case f == formPBES2:
		p, err := parsePBES2(block.Bytes)
		if err != nil {
			return nil, err
		}
		der, err := p.decrypt(passphrase)
		if err != nil {
			return nil, err
		}
		defer clear(der)
		return decrypted(formPKCS8, der)
	case isLegacyEncrypted(block):
		if err := checkLegacy(block); err != nil {
			return nil, err
		}
		//lint:ignore SA1019 Files encrypted like this exist, and are only read.
		der, err := x509.DecryptPEMBlock(block, passphrase)
		if err != nil {
			return nil, errPassphrase
		}
		defer clear(der)
		return decrypted(f, der)
	}
	return privateOf(f, block.Bytes)
}

// decrypted parses what came out of a cipher without authentication: if it
// makes no sense, the passphrase was wrong.
func decrypted(f form, der []byte) (crypto.Signer, error) {
	k, err := privateOf(f, der)
	if err != nil {
		return nil, errPassphrase
	}
	return k, nil
}

func openOpenSSH(block *pem.Block, passphrase []byte) (crypto.Signer, error) {
	f, err := parseOpenSSH(block.Bytes)
	if err != nil {
		return nil, err
	}
	if f.cipher == "none" {
		s, err := parseSection(f.private)
		if err != nil {
			return nil, err
		}
		return s.signer()
	}
	if f.rounds > maxRounds {
		return nil, fmt.Errorf("asks for %d rounds of key derivation", f.rounds)
	}
	// bcrypt_pbkdf is x/crypto's own affair, so the file has to go through it.
	text := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})
	defer clear(text)
	k, err := ssh.ParseRawPrivateKeyWithPassphrase(text, passphrase)
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, errPassphrase
	}
	if err != nil {
		return nil, fmt.Errorf("damaged: %w", err)
	}
	if p, ok := k.(*ed25519.PrivateKey); ok {
		// Its second half, the public key, is as the file says: see signer.
		defer clear(*p)
		return ed25519.NewKeyFromSeed((*p)[:ed25519.SeedSize]), nil
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key that cannot sign (%T)", k)
	}
	return s, nil
}

// inNormalForm is the form in which a decrypted key is kept: of ed25519 the 64
// bytes that crypto/ed25519 takes, as to compute the public half takes as long
// as to sign; else PKCS #8, the only form that the standard library writes for
// every kind.
func inNormalForm(k crypto.Signer) ([]byte, error) {
	if p, ok := k.(ed25519.PrivateKey); ok {
		return bytes.Clone(p), nil
	}
	return x509.MarshalPKCS8PrivateKey(k)
}

// fromNormalForm makes the key again, of which this is the public half. Nothing
// of plain is kept in it.
func fromNormalForm(plain []byte, public crypto.PublicKey) (crypto.Signer, error) {
	if _, ok := public.(ed25519.PublicKey); ok {
		// crypto/ed25519 remembers keys by their address, which must never be
		// another key's: secret memory is used again, and the heap is not as long
		// as somebody remembers.
		return ed25519.PrivateKey(bytes.Clone(plain)), nil
	}
	return privateOf(formPKCS8, plain)
}

// wipe overwrites what can be reached of a key that fromNormalForm or open has
// made.
func wipe(k crypto.Signer) {
	if p, ok := k.(ed25519.PrivateKey); ok {
		clear(p)
	}
}
