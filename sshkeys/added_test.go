package sshkeys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"sync"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/keyring/keyringtest"
)

// parts takes a private key apart as the agent protocol does.
func parts(tb testing.TB, k crypto.Signer) (kind string, fields [][]byte) {
	tb.Helper()
	switch k := k.(type) {
	case ed25519.PrivateKey:
		return "ssh-ed25519", [][]byte{k.Public().(ed25519.PublicKey), k}
	case *rsa.PrivateKey:
		return "ssh-rsa", [][]byte{k.N.Bytes(), {1, 0, 1}, k.D.Bytes(), k.Precomputed.Qinv.Bytes(), k.Primes[0].Bytes(), k.Primes[1].Bytes()}
	case *ecdsa.PrivateKey:
		point, err := k.PublicKey.Bytes()
		if err != nil {
			tb.Fatal(err)
		}
		scalar, err := k.Bytes()
		if err != nil {
			tb.Fatal(err)
		}
		curve := map[elliptic.Curve]string{
			elliptic.P256(): "nistp256", elliptic.P384(): "nistp384", elliptic.P521(): "nistp521",
		}[k.Curve]
		return "ecdsa-sha2-" + curve, [][]byte{[]byte(curve), point, scalar}
	}
	tb.Fatalf("a %T", k)
	return "", nil
}

var addedKinds = sync.OnceValue(func() map[string]crypto.Signer {
	kinds := map[string]crypto.Signer{"ed25519": ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		kinds[name] = k
	}
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	kinds["rsa"] = k
	return kinds
})

// holdAll adds one key of every kind.
func holdAll(t *testing.T) (*Added, *keyring.Keys, map[string]keyring.KeyID) {
	t.Helper()
	keys := keyring.NewKeys(keyring.NewGate(nil))
	added := NewAdded(keys)
	ids := map[string]keyring.KeyID{}
	for name, k := range addedKinds() {
		kind, fields := parts(t, k)
		parsed, err := added.Parse(kind, fields)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !samePublic(parsed.Public(), k.Public()) {
			t.Fatalf("%s: another key came out", name)
		}
		if err := added.Hold(parsed, keyring.KeyInfo{Label: name}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if ids[name], err = keyring.NewKeyID(k.Public()); err != nil {
			t.Fatal(err)
		}
	}
	return added, keys, ids
}

func TestAddedKeysKeepTheContract(t *testing.T) {
	for name := range addedKinds() {
		t.Run(name, func(t *testing.T) {
			keyringtest.TestKey(t, func(t *testing.T) (keyring.Key, string) {
				added, _, ids := holdAll(t)
				for _, k := range added.list {
					if k.Info().ID == ids[name] {
						return k, ""
					}
				}
				t.Fatal("it is not there")
				return nil, ""
			})
		})
	}
}

func TestAddedKeyReplacesItself(t *testing.T) {
	added, keys, ids := holdAll(t)
	before := len(keys.List())
	old := added.list
	if err := added.Hold(addedKinds()["p256"], keyring.KeyInfo{Label: "again", Confirm: true, Only: "ssh-agent"}); err != nil {
		t.Fatal(err)
	}
	info, err := keys.Find(ids["p256"])
	if err != nil || info.Label != "again" || !info.Confirm || info.Only != "ssh-agent" || info.Kind != keyring.KindAdded {
		t.Errorf("%+v, %v", info, err)
	}
	if n := len(keys.List()); n != before {
		t.Errorf("%d keys, before %d", n, before)
	}
	for _, k := range old {
		if k := k.(*addedKey); k.info.ID == ids["p256"] && k.private.Len() != 0 {
			t.Error("the replaced private key was not wiped")
		}
	}
}

func TestDroppedKeysAreWiped(t *testing.T) {
	added, keys, ids := holdAll(t)
	held := added.list
	added.Drop(ids["rsa"], ids["ed25519"])
	if n := len(keys.List()); n != 3 {
		t.Errorf("%d keys are left", n)
	}
	for _, k := range held {
		k := k.(*addedKey)
		dropped := k.info.ID == ids["rsa"] || k.info.ID == ids["ed25519"]
		if (k.private.Len() == 0) != dropped {
			t.Errorf("%s: %d bytes are kept", k.info.Label, k.private.Len())
		}
		if dropped {
			hash := crypto.Hash(0)
			digest := []byte("message")
			if k.info.ID == ids["rsa"] {
				hash, digest = crypto.SHA256, make([]byte, 32)
			}
			if _, err := k.Sign(t.Context(), secret.Bytes{}, digest, hash); !errors.Is(err, keyring.ErrNotFound) {
				t.Errorf("%s signs: %v", k.info.Label, err)
			}
		}
	}
	added.Drop(ids["rsa"]) // gone already
}

func TestParseRefusesBrokenKeys(t *testing.T) {
	added := NewAdded(nil)
	ed := addedKinds()["ed25519"]
	edKind, edFields := parts(t, ed)
	rsaKind, rsaFields := parts(t, addedKinds()["rsa"])
	ecKind, ecFields := parts(t, addedKinds()["p256"])
	change := func(fields [][]byte, i int, to []byte) [][]byte {
		fields = append([][]byte(nil), fields...)
		fields[i] = to
		return fields
	}
	for name, c := range map[string]struct {
		kind   string
		fields [][]byte
	}{
		"unknown kind":       {"ssh-dss", edFields},
		"too few fields":     {edKind, edFields[:1]},
		"short ed25519":      {edKind, change(edFields, 1, edFields[1][:63])},
		"unknown curve":      {ecKind, change(ecFields, 0, []byte("nistp999"))},
		"scalar 0":           {ecKind, change(ecFields, 2, nil)},
		"scalar too long":    {ecKind, change(ecFields, 2, bytes.Repeat([]byte{255}, 33))},
		"rsa: wrong prime":   {rsaKind, change(rsaFields, 4, []byte{7})},
		"rsa: prime 0":       {rsaKind, change(rsaFields, 5, nil)},
		"rsa: even exponent": {rsaKind, change(rsaFields, 1, []byte{2})},
		"rsa: huge modulus":  {rsaKind, change(rsaFields, 0, bytes.Repeat([]byte{255}, maxRSA))},
	} {
		if k, err := added.Parse(c.kind, c.fields); err == nil {
			t.Errorf("%s: is a %T", name, k)
		}
	}
}
