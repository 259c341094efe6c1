package tpmtest

import (
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyringd/keyringd/tpm/link"
)

func dial(t *testing.T, a link.Address) *link.Link {
	t.Helper()
	l, err := link.Dial(t.Context(), a, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// h2 is the storage root key of key files: facts of the draft, section 3.1.8.
var h2 = tpm2.New2B(tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		UserWithAuth: true, NoDA: true, Restricted: true, Decrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: tpm2.TPMECCNistP256,
	}),
	Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
})

var signer = tpm2.New2B(tpm2.TPMTPublic{
	Type:    tpm2.TPMAlgECC,
	NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		UserWithAuth: true, NoDA: true, SignEncrypt: true,
	},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		CurveID: tpm2.TPMECCNistP256,
	}),
})

// resident leaves a signing key alone in its connection.
func resident(t *testing.T, l transport.TPM) tpm2.NamedHandle {
	t.Helper()
	srk, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: h2}.Execute(l)
	if err != nil {
		t.Fatal("create primary:", err)
	}
	parent := tpm2.NamedHandle{Handle: srk.ObjectHandle, Name: srk.Name}
	key, err := tpm2.Create{ParentHandle: parent, InPublic: signer}.Execute(l)
	if err != nil {
		t.Fatal("create:", err)
	}
	loaded, err := tpm2.Load{ParentHandle: parent, InPrivate: key.OutPrivate, InPublic: key.OutPublic}.Execute(l)
	if err != nil {
		t.Fatal("load:", err)
	}
	flush(t, l, srk.ObjectHandle)
	return tpm2.NamedHandle{Handle: loaded.ObjectHandle, Name: loaded.Name}
}

func flush(t *testing.T, l transport.TPM, h tpm2.TPMHandle) {
	t.Helper()
	if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(l); err != nil {
		t.Fatal("flush:", err)
	}
}

func sign(l transport.TPM, key tpm2.NamedHandle, auth tpm2.Session) error {
	_, err := tpm2.Sign{
		KeyHandle: tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: auth},
		Digest:    tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
		InScheme: tpm2.TPMTSigScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256}),
		},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
	}.Execute(l)
	return err
}

func TestResidentKeyCostsFourPhysicalCommands(t *testing.T) {
	t.Parallel()
	tpm := Start(t)
	rm := tpm.ResourceManager()
	l := dial(t, rm.Address())
	key := resident(t, l)
	if err := sign(l, key, tpm2.PasswordAuth(nil)); err != nil {
		t.Fatal("first sign:", err) // a freshly started TPM may ask for it twice
	}
	rm.Reset()
	for range 5 {
		if err := sign(l, key, tpm2.PasswordAuth(nil)); err != nil {
			t.Fatal("sign:", err)
		}
	}
	if got := rm.Total(); got != 5 {
		t.Errorf("5 signatures took %d commands", got)
	}
	if got := rm.PhysicalTotal(); got != 4*5 {
		t.Errorf("5 signatures took %d physical commands, want 20: %v", got, rm.Physical())
	}

	session, end, err := tpm2.HMACSession(l, tpm2.TPMAlgSHA256, 16)
	if err != nil {
		t.Fatal(err)
	}
	if err := sign(l, key, session); err != nil {
		t.Fatal("sign with a session:", err)
	}
	rm.Reset()
	for range 5 {
		if err := sign(l, key, session); err != nil {
			t.Fatal("sign with a session:", err)
		}
	}
	if got := rm.PhysicalTotal(); got != 6*5 {
		t.Errorf("5 signatures with a session took %d physical commands, want 30: %v", got, rm.Physical())
	}
	if err := end(); err != nil {
		t.Error(err)
	}
}
