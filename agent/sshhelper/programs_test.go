package sshhelper

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/agent"
	"github.com/keyringd/keyringd/internal/bustest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// need skips the test where a file or program is missing.
func need(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.Stat(name); err != nil {
			bustest.Need(t, name)
		}
	}
}

func helper(t *testing.T, name string) {
	t.Helper()
	if _, err := find("", name); err != nil {
		bustest.Missing(t, name)
	}
}

const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// hsm makes a token with an RSA and an ECDSA key, and the PIN 1234.
func hsm(t *testing.T) *Programs {
	t.Helper()
	helper(t, "ssh-pkcs11-helper")
	need(t, softHSM, "softhsm2-util", "pkcs11-tool")
	dir := t.TempDir()
	tokens, conf := filepath.Join(dir, "tokens"), filepath.Join(dir, "conf")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+tokens+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "SOFTHSM2_CONF="+conf)
	for _, line := range []string{
		"softhsm2-util --init-token --free --label test --pin 1234 --so-pin 123456",
		"pkcs11-tool --module " + softHSM + " --login --pin 1234 --keypairgen --key-type rsa:2048 --label rsa --id 01",
		"pkcs11-tool --module " + softHSM + " --login --pin 1234 --keypairgen --key-type EC:prime256v1 --label ec --id 02",
	} {
		args := strings.Fields(line)
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	p := &Programs{Environ: env}
	t.Cleanup(p.Close)
	return p
}

func pin(t *testing.T, text string) secret.Bytes {
	b := secret.Copy([]byte(text))
	t.Cleanup(b.Wipe)
	return b
}

func TestCardSigns(t *testing.T) {
	p := hsm(t)
	keys, err := p.AddCard(t.Context(), softHSM, pin(t, "1234"))
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	digest := sha256.Sum256([]byte("text"))
	for _, k := range keys {
		sig, err := k.Sign(t.Context(), secret.Bytes{}, digest[:], crypto.SHA256)
		if err != nil {
			t.Errorf("%s: %v", k.Info().Label, err)
			continue
		}
		ok := false
		switch public := k.Info().Public.(type) {
		case *rsa.PublicKey:
			ok = rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], sig) == nil
		case *ecdsa.PublicKey:
			ok = ecdsa.VerifyASN1(public, digest[:], sig)
		}
		if !ok || k.Info().Kind != keyring.KindAdded || k.Info().NeedsAuth {
			t.Errorf("%+v", k.Info())
		}
		if _, err := k.Sign(t.Context(), secret.Bytes{}, digest[:5], crypto.SHA256); !errors.Is(err, keyring.ErrUnsupported) {
			t.Errorf("half a digest: %v", err)
		}
		if _, isRSA := k.Info().Public.(*rsa.PublicKey); isRSA {
			if _, err := k.Sign(t.Context(), secret.Bytes{}, digest[:], &rsa.PSSOptions{Hash: crypto.SHA256}); !errors.Is(err, keyring.ErrUnsupported) {
				t.Errorf("PSS: %v", err)
			}
		}
	}

	// Once more, and from then on the new ones.
	again, err := p.AddCard(t.Context(), softHSM, pin(t, "1234"))
	if err != nil || len(again) != 2 {
		t.Fatalf("%d keys, %v", len(again), err)
	}
	if _, err := keys[0].Sign(t.Context(), secret.Bytes{}, digest[:], crypto.SHA256); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("a key of the process that is gone: %v", err)
	}
	if err := p.RemoveCard(t.Context(), softHSM); err != nil {
		t.Error(err)
	}
	if _, err := again[0].Sign(t.Context(), secret.Bytes{}, digest[:], crypto.SHA256); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("a key of a library that is unloaded: %v", err)
	}
	if err := p.RemoveCard(t.Context(), softHSM); !errors.Is(err, keyring.ErrNotFound) {
		t.Error(err)
	}
}

func TestCardRefuses(t *testing.T) {
	p := hsm(t)
	if _, err := p.AddCard(t.Context(), softHSM, pin(t, "9999")); err == nil {
		t.Error("a wrong PIN opened the card")
	}
	if _, err := p.AddCard(t.Context(), "/nonexistent.so", pin(t, "1234")); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("no such library: %v", err)
	}
	if keys, err := p.AddCard(t.Context(), softHSM, pin(t, "1234")); err != nil || len(keys) != 2 {
		t.Errorf("after a wrong PIN: %d keys, %v", len(keys), err)
	}
	if _, err := (&Programs{PKCS11: "/nonexistent"}).AddCard(t.Context(), softHSM, secret.Bytes{}); !errors.Is(err, keyring.ErrUnavailable) {
		t.Errorf("no helper: %v", err)
	}
}

// script is a helper that does what a shell script says.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "helper")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBadHelpers hang, crash, and talk nonsense.
func TestBadHelpers(t *testing.T) {
	for name, text := range map[string]string{
		"crashes": "kill -9 $$", "ends": "exit 0", "says nothing": `printf '\0\0\0\0'; cat >/dev/null`,
		"says too much": `printf '\377\377\377\377'; cat >/dev/null`, "nonsense": `printf '\0\0\0\5\14\377\377\377\377'; cat >/dev/null`,
		"short": `printf '\0\0\0\5\14\0\0\0\1'; cat >/dev/null`, "other version": `printf '\0\0\0\5\4\0\0\0\1'; cat >/dev/null`,
	} {
		p := &Programs{PKCS11: script(t, text), SK: script(t, text)}
		if _, err := p.AddCard(t.Context(), "/x", secret.Bytes{}); !errors.Is(err, keyring.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := p.SignSK(t.Context(), request(t, 1)); !errors.Is(err, keyring.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		p.Close()
	}

	p := &Programs{PKCS11: script(t, "exec sleep 1000"), SK: script(t, "exec sleep 1000")}
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := p.AddCard(ctx, "/x", secret.Bytes{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hangs: %v", err)
	}
	if _, err := p.SignSK(ctx, request(t, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hangs: %v", err)
	}
}

// request wants a signature of a new key with these flags.
func request(t *testing.T, flags byte) agent.SKRequest {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	const kind = "sk-ssh-ed25519@openssh.com"
	blob := appendString(appendString(appendString(nil, kind), []byte(public)), "ssh:")
	return agent.SKRequest{Type: kind, Application: "ssh:", PublicKey: blob, Handle: private.Seed(), Flags: flags, Data: []byte("data")}
}

// TestSecurityKey has OpenSSH's helper sign with a token that is a library.
func TestSecurityKey(t *testing.T) {
	helper(t, "ssh-sk-helper")
	need(t, "cc", "/usr/include/openssl/evp.h")
	library := filepath.Join(t.TempDir(), "token.so")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", library, "testdata/token.c", "-lcrypto").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p := &Programs{Environ: os.Environ()}
	r := request(t, 1)
	r.Provider = library
	check := func(r agent.SKRequest) {
		t.Helper()
		sig, err := p.SignSK(t.Context(), r)
		if err != nil {
			t.Error(err)
			return
		}
		var parsed ssh.Signature
		public, err := ssh.ParsePublicKey(r.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		if err := ssh.Unmarshal(sig, &parsed); err != nil || public.Verify(r.Data, &parsed) != nil {
			t.Errorf("signature %x: %v", sig, err)
		}
	}
	check(r)

	r = request(t, 1|4)
	r.Provider = library
	if _, err := p.SignSK(t.Context(), r); !errors.Is(err, keyring.ErrAuthFailed) {
		t.Errorf("without the PIN: %v", err)
	}
	r.PIN = pin(t, "1234")
	check(r)

	for _, c := range []struct {
		change func(*agent.SKRequest)
		want   error
	}{
		{func(r *agent.SKRequest) { r.Data = []byte("crash") }, keyring.ErrUnavailable},
		{func(r *agent.SKRequest) { r.Provider = "/nonexistent.so" }, keyring.ErrUnavailable},
		{func(r *agent.SKRequest) { r.Type = "ssh-ed25519" }, keyring.ErrUnsupported},
		{func(r *agent.SKRequest) { r.PublicKey = r.PublicKey[:40] }, keyring.ErrUnsupported},
		{func(r *agent.SKRequest) { r.Handle = nil }, nil},
	} {
		r := request(t, 1)
		r.Provider = library
		c.change(&r)
		if _, err := p.SignSK(t.Context(), r); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", r, err, c.want)
		}
	}
}

func TestPINsAreWiped(t *testing.T) {
	request := []byte("request")
	before := request
	p := pin(t, "1234")
	secretAppend(&request, p)
	if !bytes.Equal(before, make([]byte, len(before))) || !bytes.HasSuffix(request, []byte("\x00\x00\x00\x041234")) {
		t.Errorf("%q, %q", before, request)
	}
	if slices.Contains(request[:7], 0) {
		t.Errorf("%q", request)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte("\x0c\x00\x00\x00\x01\x00\x00\x00\x01a\x00\x00\x00\x01b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := decoder{rest: data}
		d.byte()
		n := 0
		for !d.bad && len(d.rest) > 0 {
			n += 4 + len(d.string())
		}
		if n > len(data)+4 {
			t.Errorf("%d bytes out of %d", n, len(data))
		}
	})
}
