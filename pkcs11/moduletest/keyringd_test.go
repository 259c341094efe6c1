package moduletest

import (
	"crypto/rand"
	"crypto/sha256"
	"path/filepath"
	"testing"
)

// TestKeyringd does with our own server what TestSignsAndVerifies does with a
// foreign one, and checks with openssl, which shares no code with either.
func TestKeyringd(t *testing.T) {
	need(t, "pkcs11-tool", "openssl")
	h := newHost(t, newKeyringd(t))
	message := make([]byte, 200<<10)
	rand.Read(message)
	digest := sha256.Sum256(message)
	long, short := h.write("message", message), h.write("digest", digest[:])
	ec, rsa := h.idOf("EC"), h.idOf("RSA")
	for id, name := range map[string]string{ec: "ec.der", rsa: "rsa.der"} {
		h.tool("", "--read-object", "--type", "pubkey", "--id", id, "-o", name)
	}
	der := []string{"--signature-format", "openssl"}
	for _, c := range []struct {
		id, key, mechanism, input string
		more, openssl             []string
	}{
		{ec, "ec.der", "ECDSA", short, der, []string{"pkeyutl", "-verify"}},
		{ec, "ec.der", "ECDSA-SHA256", long, der, []string{"dgst", "-sha256"}},
		{ec, "ec.der", "ECDSA-SHA512", long, der, []string{"dgst", "-sha512"}},
		{rsa, "rsa.der", "SHA256-RSA-PKCS", long, nil, []string{"dgst", "-sha256"}},
		{rsa, "rsa.der", "SHA512-RSA-PKCS", long, nil, []string{"dgst", "-sha512"}},
		{rsa, "rsa.der", "SHA256-RSA-PKCS-PSS", long, nil, []string{"dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss"}},
	} {
		t.Run(c.mechanism, func(t *testing.T) {
			h := *h
			h.tb = t
			signature := filepath.Join(h.dir, "signature")
			h.tool("", append([]string{"--sign", "--id", c.id, "-m", c.mechanism, "-i", c.input, "-o", signature}, c.more...)...)
			if c.openssl[0] == "pkeyutl" {
				h.run("openssl", append(c.openssl, "-pubin", "-keyform", "DER", "-inkey", c.key, "-in", c.input, "-sigfile", signature)...)
			} else {
				h.run("openssl", append(c.openssl, "-keyform", "DER", "-verify", c.key, "-signature", signature, c.input)...)
			}
		})
	}
}

// TestKeyringdPrograms lists keyringd's keys with programs of every family.
func TestKeyringdPrograms(t *testing.T) {
	programs(t, newHost(t, newKeyringd(t)), "keyringd", "ec", "rsa")
}

// TestSignsQuickly measures our share of a signature with a software key, which
// is the time a program waits beside the key's own: two round trips.
func TestSignsQuickly(t *testing.T) {
	h := newHost(t, newKeyringd(t))
	makeModule(t, h.dir, h.dir+"/bench")
	const most = 1000 // ten times what an idle machine needs; the other tests share it
	best := 0.0
	for range 5 {
		n := h.measure(h.dir+"/bench", h.module, "500")
		t.Logf("C_SignInit and C_Sign: %v µs usually, %v µs for one in a hundred", n["sign_median"], n["sign_p99"])
		if best == 0 || n["sign_median"] < best {
			best = n["sign_median"]
		}
	}
	if best > most {
		t.Errorf("a signature takes %v µs, want %v at most", best, most)
	}
}
