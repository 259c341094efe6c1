package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keyringd/keyringd/tpm/keyfile"
)

// What is put down as a key or its public half has nothing else in it.
func TestKinds(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "tpm", "keyfile", "testdata", "corpus", "openssl-p256.pem"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := keyfile.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := f.PEM()
	if err != nil {
		t.Fatal(err)
	}
	public := []byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3Y5PzG6mSaxbTwS4kLwM2RBzN2kQd0xN0mYp1Jb3cT me\n")
	for _, test := range []struct {
		name string
		err  error
		fine bool
	}{
		{"key file", keyFile(ours), true},
		{"text before", keyFile(append([]byte("#!/bin/sh\n"), ours...)), false},
		{"text behind", keyFile(append(ours[:len(ours):len(ours)], "true\n"...)), false},
		{"no key file", keyFile(public), false},
		{"public key", publicKey(public), true},
		{"more lines", publicKey(append(public[:len(public):len(public)], "true\n"...)), false},
		{"no public key", publicKey([]byte("true\n")), false},
	} {
		if (test.err == nil) != test.fine {
			t.Errorf("%s: %v", test.name, test.err)
		}
	}
}
