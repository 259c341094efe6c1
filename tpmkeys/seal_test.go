package tpmkeys

import (
	"errors"
	"strings"
	"testing"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/tpm/tpmtest"
)

func TestSealedFiles(t *testing.T) {
	w := newWorkshop(t)
	data := secret.Copy([]byte("swordfish"))
	defer data.Wipe()
	for name, target := range map[string]keyring.Target{
		"bare": {Path: "bare"}, "pin": {Path: "pin", PIN: true}, "pcr": {Path: "pcr", PCRs: "sha256:7"},
	} {
		if target.PIN {
			w.answers("1234")
		}
		made, err := w.SealFile(t.Context(), keyring.SealRequest{Caller: by, Target: target, Data: data})
		must(t, err)
		if bare := name == "bare"; (len(made.Notes) == 1) != bare {
			t.Errorf("%s: notes %q", name, made.Notes)
		}
		if target.PIN {
			w.answers("wrong", "1234")
		}
		got, err := w.UnsealFile(t.Context(), keyring.UnsealRequest{Caller: by, Path: made.Path})
		if err != nil || !got.Equal(data) {
			t.Errorf("%s: %d bytes, %v", name, got.Len(), err)
		}
		got.Wipe()
		w.user.Reset()
	}
	key := w.create("id", "")
	if _, err := w.UnsealFile(t.Context(), keyring.UnsealRequest{Caller: by, Path: key.Path}); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("a key: %v", err)
	}
}

func TestSealer(t *testing.T) {
	w := newWorkshop(t)
	var s keyring.Sealer = Sealer{Device: w.Device}
	plain, pin, wrong := secret.Copy(make([]byte, 32)), secret.Copy([]byte("1234")), secret.Copy([]byte("4321"))
	for _, auth := range []secret.Bytes{{}, pin} {
		sealed, err := s.Seal(t.Context(), auth, plain)
		must(t, err)
		got, err := s.Unseal(t.Context(), auth, sealed)
		if err != nil || !got.Equal(plain) {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		if auth.Len() > 0 {
			if _, err := s.Unseal(t.Context(), wrong, sealed); !errors.Is(err, keyring.ErrAuthFailed) {
				t.Errorf("a wrong auth: %v", err)
			}
		}
		if _, err := s.Unseal(t.Context(), auth, sealed[:len(sealed)-9]); !errors.Is(err, keyring.ErrUnsupported) {
			t.Errorf("a part of it: %v", err)
		}
	}
	other := Sealer{Device: device(t, tpmtest.Start(t).Address())}
	sealed, err := s.Seal(t.Context(), secret.Bytes{}, plain)
	must(t, err)
	if _, err := other.Unseal(t.Context(), secret.Bytes{}, sealed); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("another TPM: %v", err)
	}
}

// What is sealed to registers is given back as long as they stay as they are.
func TestSealerPCRs(t *testing.T) {
	sim := tpmtest.Start(t)
	s := Sealer{Device: device(t, sim.Address())}
	plain := secret.Copy(make([]byte, 32))
	sealed, err := s.SealPCRs(t.Context(), secret.Bytes{}, plain, "sha256:7")
	must(t, err)
	got, err := s.Unseal(t.Context(), secret.Bytes{}, sealed)
	if err != nil || !got.Equal(plain) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	sim.Tool(t, t.TempDir(), "tpm2_pcrextend", "7:sha256="+strings.Repeat("ab", 32))
	if _, err := s.Unseal(t.Context(), secret.Bytes{}, sealed); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("with another register: %v", err)
	}
	if _, err := s.SealPCRs(t.Context(), secret.Bytes{}, plain, "sha256:99"); !errors.Is(err, keyring.ErrUnsupported) {
		t.Errorf("a register that there is not: %v", err)
	}
}
