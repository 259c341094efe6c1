package moduletest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var otherFlags = regexp.MustCompile(`, other flags=0x[0-9a-f]+`)

// lines returns the trimmed lines of what a program printed in their order by
// name, as SoftHSM lists objects in any. It leaves out those that speak of its
// slot: the peer numbers slots in its own way.
func lines(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		// SoftHSM adds to flags of a mechanism that it never set.
		line = otherFlags.ReplaceAllString(strings.TrimSpace(line), "")
		if line != "" && !strings.Contains(line, "slot") && !strings.Contains(line, "Slot") {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return all
}

// TestListsAsSoftHSMItself: what a program sees through two processes is what it
// sees without them, attribute for attribute.
func TestListsAsSoftHSMItself(t *testing.T) {
	s := newSoftHSM(t)
	h := newHost(t, s.socket, s.env)
	wantIn(t, h.tool("", "-L"), "SoftHSM project", "soft", "login required, rng, token initialized, PIN initialized")
	for _, args := range [][]string{{"-O"}, {"-l", "--pin", pin, "-O"}, {"-M"}} {
		var out [2]string
		var failed [2]bool
		for i, module := range []string{s.direct, h.module} {
			text, err := h.try("pkcs11-tool", append([]string{"--module", module}, args...)...)
			out[i], failed[i] = text, err != nil
		}
		direct, ours := lines(out[0]), lines(out[1])
		if !slices.Equal(direct, ours) || failed[0] != failed[1] {
			t.Errorf("pkcs11-tool %v: SoftHSM itself and through the module:\n%s", args, cmp.Diff(direct, ours))
		}
		if len(ours) < 5 {
			t.Errorf("pkcs11-tool %v printed only:\n%s", args, out[1])
		}
	}
}

// TestToolsOwnTest runs pkcs11-tool's --test as far as it goes with SoftHSM
// itself, which is up to an OAEP hash that SoftHSM does not know.
func TestToolsOwnTest(t *testing.T) {
	s := newSoftHSM(t)
	h := newHost(t, s.socket, s.env)
	args := []string{"-l", "--pin", pin, "--test"}
	direct, _ := h.try("pkcs11-tool", append([]string{"--module", s.direct}, args...)...)
	ours, _ := h.try("pkcs11-tool", append([]string{"--module", h.module}, args...)...)
	wantIn(t, ours, "seems to be OK", "all 4 digest functions seem to work", "RSA-X-509: OK", "RSA-PKCS: OK")
	failed := func(text string) (all []string) {
		for _, line := range lines(text) {
			if strings.Contains(line, "error") || strings.Contains(line, "ERR") || strings.Contains(line, "CKR_") {
				all = append(all, line)
			}
		}
		return all
	}
	if !slices.Equal(failed(direct), failed(ours)) {
		t.Errorf("through the module:\n%s\nitself:\n%s", ours, direct)
	}
}

// TestSignsAndVerifies does so with each mechanism, and crosses: what is signed
// through the module SoftHSM verifies itself, and the other way round.
func TestSignsAndVerifies(t *testing.T) {
	s := newSoftHSM(t)
	h := newHost(t, s.socket, s.env)
	message := make([]byte, 200<<10) // more than one part of C_SignUpdate
	rand.Read(message)
	digest := sha256.Sum256(message)
	long, short := h.write("message", message), h.write("digest", digest[:])
	for _, c := range []struct {
		id, mechanism, input string
		more                 []string
	}{
		{"01", "ECDSA", short, nil},
		{"02", "RSA-PKCS", short, nil},
		{"02", "SHA1-RSA-PKCS", long, nil},
		{"02", "SHA256-RSA-PKCS", long, nil},
		{"02", "SHA384-RSA-PKCS", long, nil},
		{"02", "SHA512-RSA-PKCS", long, nil},
		{"02", "RSA-PKCS-PSS", short, []string{"--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256", "--salt-len", "20"}},
		{"02", "SHA256-RSA-PKCS-PSS", long, nil},
		{"02", "SHA512-RSA-PKCS-PSS", long, nil},
	} {
		t.Run(c.mechanism, func(t *testing.T) {
			h := *h
			h.tb = t
			signature := filepath.Join(h.dir, "signature")
			for _, m := range [][2]string{{h.module, s.direct}, {s.direct, h.module}} {
				h.tool(m[0], append([]string{"-l", "--pin", pin, "--sign", "--id", c.id, "-m", c.mechanism, "-i", c.input, "-o", signature}, c.more...)...)
				verify := append([]string{"--verify", "--id", c.id, "-m", c.mechanism, "-i", c.input, "--signature-file", signature}, c.more...)
				wantIn(t, h.tool(m[1], verify...), "Signature is valid")
				broken, err := os.ReadFile(signature)
				if err != nil {
					t.Fatal(err)
				}
				broken[len(broken)-1] ^= 1
				h.write("signature", broken)
				if out, err := h.try("pkcs11-tool", append([]string{"--module", m[1]}, verify...)...); err == nil && !strings.Contains(out, "Invalid signature") {
					t.Errorf("a broken signature is valid:\n%s", out)
				}
			}
		})
	}
}

// TestDecryptsDigestsAndWrites covers the calls that signing does not use.
func TestDecryptsDigestsAndWrites(t *testing.T) {
	s := newSoftHSM(t)
	h := newHost(t, s.socket, s.env)
	need(t, "openssl")
	plain := h.write("plain", []byte("a secret of 22 letters"))
	h.tool("", "--read-object", "--type", "pubkey", "--id", "02", "-o", "rsa.der")
	h.run("openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "rsa.der", "-in", plain, "-out", "cipher")
	h.run("openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "rsa.der", "-in", plain, "-out", "oaep", "-pkeyopt", "rsa_padding_mode:oaep")
	for input, more := range map[string][]string{
		"cipher": {"-m", "RSA-PKCS"},
		"oaep":   {"-m", "RSA-PKCS-OAEP", "--hash-algorithm", "SHA-1", "--mgf", "MGF1-SHA1"},
	} {
		h.tool("", append([]string{"-l", "--pin", pin, "--decrypt", "--id", "02", "-i", input, "-o", "out"}, more...)...)
		if got, err := os.ReadFile(filepath.Join(h.dir, "out")); err != nil || string(got) != "a secret of 22 letters" {
			t.Errorf("%s decrypts to %q, %v", input, got, err)
		}
	}

	message := make([]byte, 300<<10)
	rand.Read(message)
	h.tool("", "--hash", "-m", "SHA256", "-i", h.write("message", message), "-o", "hash")
	want := sha256.Sum256(message)
	if got, err := os.ReadFile(filepath.Join(h.dir, "hash")); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("SHA-256 is %x, %v; want %x", got, err, want)
	}
	h.tool("", "--generate-random", "100000", "-o", "random")
	if got, err := os.ReadFile(filepath.Join(h.dir, "random")); err != nil || len(got) != 100000 || bytes.Contains(got, make([]byte, 16)) {
		t.Errorf("%d random bytes, %v", len(got), err)
	}

	// C_CreateObject, C_GenerateKeyPair, C_GenerateKey, C_SetPIN, C_DestroyObject.
	h.write("data", []byte("some data"))
	h.tool("", "-l", "--pin", pin, "--write-object", "data", "--type", "data", "--label", "note")
	h.tool("", "-l", "--pin", pin, "--keypairgen", "--key-type", "EC:secp384r1", "--id", "03", "--label", "made here")
	h.tool("", "-l", "--pin", pin, "--keygen", "--key-type", "AES:32", "--id", "04", "--label", "symmetric")
	wantIn(t, h.tool(s.direct, "-l", "--pin", pin, "-O"), "note", "made here", "symmetric")
	h.tool("", "-l", "--pin", pin, "--delete-object", "--type", "privkey", "--id", "03")
	h.tool("", "-l", "--pin", pin, "--change-pin", "--new-pin", "4321")
	h.tool("", "-l", "--pin", "4321", "-O")
	if out, err := h.try("pkcs11-tool", "--module", h.module, "-l", "--pin", pin, "-O"); err == nil || !strings.Contains(out, "CKR_PIN_INCORRECT") {
		t.Errorf("the old PIN: %v\n%s", err, out)
	}
}

// TestPrograms lists SoftHSM's keys with programs of every family.
func TestPrograms(t *testing.T) {
	s := newSoftHSM(t)
	h := newHost(t, s.socket, s.env)
	programs(t, h, "soft", "ec", "rsa")
}

// programs lets each program list the keys.
func programs(t *testing.T, h *host, token string, labels ...string) {
	t.Run("ssh-keygen", func(t *testing.T) {
		h := *h
		h.tb = t
		wantIn(t, h.run("ssh-keygen", "-D", h.module), append([]string{"ecdsa-sha2-nistp256 ", "ssh-rsa "}, labels...)...)
	})
	t.Run("p11tool", func(t *testing.T) {
		h := *h
		h.tb = t
		wantIn(t, h.run("p11tool", "--provider", h.module, "--list-tokens"), token)
		wantIn(t, h.run("p11tool", "--provider", h.module, "--list-all"), append([]string{"EC/ECDSA", "RSA-2048"}, labels...)...)
	})
	t.Run("NSS", func(t *testing.T) {
		h := *h
		h.tb = t
		need(t, "certutil", "modutil")
		if err := os.MkdirAll(filepath.Join(h.dir, "nss"), 0o700); err != nil {
			t.Fatal(err)
		}
		h.run("certutil", "-N", "-d", "sql:nss", "--empty-password")
		h.run("modutil", "-dbdir", "sql:nss", "-force", "-add", "keyringd", "-libfile", h.module)
		wantIn(t, h.run("modutil", "-dbdir", "sql:nss", "-list"), token, "keyringd", "status: loaded")
	})
	t.Run("p11-kit", func(t *testing.T) {
		h := *h
		h.tb = t
		// The packaged file, with the one thing that an installation fills in.
		packaged, err := os.ReadFile("../../packaging/p11-kit/keyringd.module")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(packaged, []byte("\nmodule: keyringd-pkcs11.so\n")) != 1 {
			t.Fatalf("the packaged file names no module:\n%s", packaged)
		}
		// For root p11-kit reads no configuration from a home, and to another
		// user the daemon is not there: then this sees that the module loads.
		want := []string{"keyringd", token}
		home := h.dir
		if os.Geteuid() == 0 {
			want = []string{"keyringd", "keyringd (not running)"}
			if home, err = os.MkdirTemp("", "kr"); err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(home)
		}
		library, err := os.ReadFile(h.module)
		if err != nil {
			t.Fatal(err)
		}
		modules := filepath.Join(home, ".config", "pkcs11", "modules")
		if err := os.MkdirAll(modules, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, "module.so"), library, 0o755); err != nil {
			t.Fatal(err)
		}
		text := bytes.Replace(packaged, []byte("keyringd-pkcs11.so"), []byte(filepath.Join(home, "module.so")), 1)
		if err := os.WriteFile(filepath.Join(modules, "keyringd.module"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		need(t, "p11-kit")
		cmd := exec.Command("p11-kit", "list-modules")
		cmd.Dir = "/"
		cmd.Env = append(slices.Clone(h.env), "HOME="+home, "XDG_CONFIG_HOME="+filepath.Join(home, ".config"))
		if os.Geteuid() == 0 {
			if err := os.Chmod(home, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		wantIn(t, string(out), want...)
	})
}

// TestServerEnds: a peer that is gone leaves a module without slots, not a
// program that hangs.
func TestServerEnds(t *testing.T) {
	s := newSoftHSM(t)
	h := newHost(t, s.socket, s.env)
	wantIn(t, h.tool("", "-L"), "soft")
	s.kill()
	out, _ := h.try("pkcs11-tool", "--module", h.module, "-L")
	if !strings.Contains(out, "No slots") {
		t.Errorf("without a server:\n%s", out)
	}
}

// TestValgrind: a program's whole life with the module leaves nothing behind and
// touches nothing that it should not.
func TestValgrind(t *testing.T) {
	need(t, "valgrind")
	h := newHost(t, newKeyringd(t))
	makeModule(t, h.dir, "CFLAGS=-O1 -g", h.dir+"/bench", h.dir+"/plain/module.so")
	h.run("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=definite,indirect",
		h.dir+"/bench", h.dir+"/plain/module.so", "20")
}
