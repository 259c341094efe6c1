package tpm

import (
	"crypto"
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/tpm/tpmtest"
)

// A policyMaker makes the digest and the file's steps of a policy with
// tpm2-tools.
type policyMaker struct {
	t   *testing.T
	sim *tpmtest.TPM
	dir string
}

func newPolicy(t *testing.T, sim *tpmtest.TPM) *policyMaker {
	m := &policyMaker{t, sim, t.TempDir()}
	m.tool("tpm2_startauthsession", "-S", "s.ctx") // a trial
	return m
}

func (m *policyMaker) tool(name string, args ...string) {
	m.t.Helper()
	m.sim.Tool(m.t, m.dir, name, args...)
}

// digest ends the trial and returns what it came to.
func (m *policyMaker) digest() []byte {
	m.t.Helper()
	m.tool("tpm2_flushcontext", "s.ctx")
	return readFile(m.t, filepath.Join(m.dir, "policy"))
}

// pcr7 is PolicyPCR of the value that sha256:7 has now.
func (m *policyMaker) pcr7() tpmtest.PolicyStep {
	m.t.Helper()
	m.tool("tpm2_pcrread", "-Q", "-o", "pcr", "sha256:7")
	m.tool("tpm2_policypcr", "-Q", "-S", "s.ctx", "-l", "sha256:7", "-f", "pcr", "-L", "policy")
	h := crypto.SHA256.New()
	h.Write(readFile(m.t, filepath.Join(m.dir, "pcr")))
	return tpmtest.PolicyStep{Code: uint32(tpm2.TPMCCPolicyPCR), Body: pcrBody(h.Sum(nil))}
}

func pcrBody(digest []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(digest)))
	b = append(b, digest...)
	return append(b, 0, 0, 0, 1, 0, 0x0b, 3, 0x80, 0, 0)
}

func (m *policyMaker) authValue() tpmtest.PolicyStep {
	m.t.Helper()
	m.tool("tpm2_policyauthvalue", "-S", "s.ctx", "-L", "policy")
	return tpmtest.PolicyStep{Code: uint32(tpm2.TPMCCPolicyAuthValue)}
}

// onlyPolicy are the attributes of a key that its policy alone unlocks.
const onlyPolicy = "fixedtpm|fixedparent|sensitivedataorigin|sign|noda"

func extendPCR7(t *testing.T, sim *tpmtest.TPM) {
	t.Helper()
	sim.Tool(t, t.TempDir(), "tpm2_pcrextend", "7:sha256="+strings.Repeat("ab", 32))
}

func TestPolicyPCRAndAuthValue(t *testing.T) {
	sim := tpmtest.Start(t)
	m := newPolicy(t, sim)
	steps := []tpmtest.PolicyStep{m.pcr7(), m.authValue()}
	file := sim.ToolKey(t, tpmtest.ToolKey{Attributes: onlyPolicy, PIN: testPIN, PolicyDigest: m.digest(), Policy: steps})
	other := sim.ToolKey(t, tpmtest.ToolKey{})
	for _, rm := range []bool{false, true} {
		relay := sim.Relay()
		addr := relay.Address()
		if rm {
			addr = sim.ResourceManager().Address()
		}
		d := New(addr, Options{})
		k := newKey(t, d, file)
		signs(t, k, testPIN)
		relay.Reset()
		for range 5 {
			signs(t, k, testPIN)
		}
		if n := relay.Total(); !rm && n != 15 {
			t.Errorf("5 signatures took %d commands, want 2 steps and 1 each: %v", n, relay.Sent())
		}
		if err := trySign(k, "wrong", crypto.SHA256); !errors.Is(err, ErrAuthFailed) {
			t.Errorf("wrong PIN: %v", err)
		}
		signs(t, k, testPIN)
		if relay.Contains([]byte(testPIN)) {
			t.Error("the PIN was on the bus")
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	extendPCR7(t, sim)
	d := newDevice(t, sim.Address(), Options{})
	var policy *PolicyError
	err := trySign(newKey(t, d, file), testPIN, crypto.SHA256)
	if !errors.As(err, &policy) || policy.Step != "PCR sha256:7 has changed since the key was made" {
		t.Errorf("after the register changed: %v", err)
	}
	// Other keys are not disturbed, and neither is a second try.
	signs(t, newKey(t, d, other), "")
	if err := trySign(newKey(t, d, file), testPIN, crypto.SHA256); !errors.As(err, &policy) {
		t.Errorf("again: %v", err)
	}
}

func TestPolicyLocalityCounterTimer(t *testing.T) {
	for _, c := range []struct {
		name  string
		make  func(*policyMaker) tpmtest.PolicyStep
		unmet string // "" if it is satisfied
	}{
		{"locality 0", func(m *policyMaker) tpmtest.PolicyStep {
			m.tool("tpm2_policylocality", "-Q", "-S", "s.ctx", "-L", "policy", "zero")
			return tpmtest.PolicyStep{Code: uint32(tpm2.TPMCCPolicyLocality), Body: []byte{1}}
		}, ""},
		{"locality 3", func(m *policyMaker) tpmtest.PolicyStep {
			m.tool("tpm2_policylocality", "-Q", "-S", "s.ctx", "-L", "policy", "three")
			return tpmtest.PolicyStep{Code: uint32(tpm2.TPMCCPolicyLocality), Body: []byte{8}}
		}, "it may only be used from locality 3"},
		{"clock below much", func(m *policyMaker) tpmtest.PolicyStep {
			m.tool("tpm2_policycountertimer", "-Q", "-S", "s.ctx", "-L", "policy", "--ult", "clock=86400000")
			return tpmtest.PolicyStep{Code: uint32(tpm2.TPMCCPolicyCounterTimer), Body: counterTimer(86400000, 5)}
		}, ""},
		{"clock above much", func(m *policyMaker) tpmtest.PolicyStep {
			m.tool("tpm2_policycountertimer", "-Q", "-S", "s.ctx", "-L", "policy", "--ugt", "clock=86400000")
			return tpmtest.PolicyStep{Code: uint32(tpm2.TPMCCPolicyCounterTimer), Body: counterTimer(86400000, 3)}
		}, "the TPM's clock is not within what the key allows"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sim := tpmtest.Start(t)
			m := newPolicy(t, sim)
			steps := []tpmtest.PolicyStep{c.make(m)}
			file := sim.ToolKey(t, tpmtest.ToolKey{Attributes: onlyPolicy, PolicyDigest: m.digest(), Policy: steps})
			d := newDevice(t, sim.Address(), Options{})
			k := newKey(t, d, file)
			for range 2 {
				err := trySign(k, "", crypto.SHA256)
				var policy *PolicyError
				if c.unmet == "" && err != nil || c.unmet != "" && (!errors.As(err, &policy) || policy.Step != c.unmet) {
					t.Fatalf("got %v", err)
				}
			}
		})
	}
}

// counterTimer is the body of a PolicyCounterTimer on the clock.
func counterTimer(ms uint64, op uint16) []byte {
	b := []byte{0, 8}
	b = binary.BigEndian.AppendUint64(b, ms)
	b = append(b, 0, 8)
	return binary.BigEndian.AppendUint16(b, op)
}

func TestPolicySecret(t *testing.T) {
	sim := tpmtest.Start(t)
	m := newPolicy(t, sim)
	m.tool("tpm2_policysecret", "-Q", "-S", "s.ctx", "-c", "endorsement", "-L", "policy")
	steps := []tpmtest.PolicyStep{{Code: uint32(tpm2.TPMCCPolicySecret), Body: []byte{
		0, 0, 0, 0, // no hint
		0, 4, 0x40, 0, 0, 0x0b, // the name of the endorsement hierarchy
		0, 0,
	}}}
	file := sim.ToolKey(t, tpmtest.ToolKey{Attributes: onlyPolicy, PolicyDigest: m.digest(), Policy: steps})
	relay := sim.Relay()
	d := New(relay.Address(), Options{})
	k := newKey(t, d, file)
	signs(t, k, "")
	signs(t, k, "")
	_ = d.Close()

	sim.Tool(t, t.TempDir(), "tpm2_changeauth", "-c", "endorsement", "endorse-canary")
	d = newDevice(t, relay.Address(), Options{ParentAuth: answer("endorse-canary")})
	k = newKey(t, d, file)
	signs(t, k, "")
	signs(t, k, "")
	if relay.Contains([]byte("endorse-canary")) {
		t.Error("the hierarchy's password was on the bus")
	}
}

// TestSignedPolicy has a key under PolicyAuthorize, whose holder signed two
// policies: one that does not fit any more, and one that does.
func TestSignedPolicy(t *testing.T) {
	sim := tpmtest.Start(t)
	dir := t.TempDir()
	sim.Tool(t, dir, "openssl", "genrsa", "-out", "signer.pem", "2048")
	sim.Tool(t, dir, "openssl", "rsa", "-in", "signer.pem", "-pubout", "-out", "signer.pub")
	sim.Tool(t, dir, "tpm2_loadexternal", "-Q", "-C", "o", "-G", "rsa", "-u", "signer.pub", "-c", "signer.ctx", "-n", "signer.name")
	sim.Tool(t, dir, "tpm2_readpublic", "-Q", "-c", "signer.ctx", "-o", "signer.tpm")
	area := readFile(t, filepath.Join(dir, "signer.tpm")) // TPM2B_PUBLIC

	// What the key itself demands.
	m := newPolicy(t, sim)
	writeFile(t, filepath.Join(m.dir, "policy"), make([]byte, 32))
	m.tool("tpm2_policyauthorize", "-Q", "-S", "s.ctx", "-L", "policy", "-i", "policy", "-n", filepath.Join(dir, "signer.name"))
	digest := m.digest()
	authorize := func(signature []byte) tpmtest.PolicyStep {
		b := append([]byte(nil), area...)
		b = append(b, 0, 0) // no policyRef
		if signature == nil {
			return tpmtest.PolicyStep{Code: uint32(tpm2.TPMCCPolicyAuthorize), Body: append(b, 0, 0x10)}
		}
		b = append(b, 0, 0x14, 0, 0x0b) // RSASSA, SHA-256
		b = binary.BigEndian.AppendUint16(b, uint16(len(signature)))
		return tpmtest.PolicyStep{Code: uint32(tpm2.TPMCCPolicyAuthorize), Body: append(b, signature...)}
	}
	sign := func(policy []byte) []byte {
		writeFile(t, filepath.Join(dir, "approved"), policy)
		sim.Tool(t, dir, "openssl", "dgst", "-sha256", "-sign", "signer.pem", "-out", "sig", "approved")
		return readFile(t, filepath.Join(dir, "sig"))
	}

	m = newPolicy(t, sim)
	old := m.pcr7()
	oldSig := sign(m.digest())
	extendPCR7(t, sim)
	m = newPolicy(t, sim)
	now := []tpmtest.PolicyStep{m.pcr7(), m.authValue()}
	nowSig := sign(m.digest())

	key := tpmtest.ToolKey{
		Attributes: onlyPolicy, PIN: testPIN, PolicyDigest: digest,
		Policy: []tpmtest.PolicyStep{authorize(nil)},
		AuthPolicy: []tpmtest.AuthPolicy{
			{Name: "before the update", Policy: []tpmtest.PolicyStep{old, authorize(oldSig)}},
			{Name: "after the update", Policy: append(now, authorize(nowSig))},
		},
	}
	file := sim.ToolKey(t, key)
	relay := sim.Relay()
	d := newDevice(t, relay.Address(), Options{})
	k := newKey(t, d, file)
	for range 3 {
		signs(t, k, testPIN)
	}
	if n := relay.Sent()[tpm2.TPMCCVerifySignature]; n != 1 {
		t.Errorf("the signed policy was checked %d times", n)
	}
	if err := trySign(k, "wrong", crypto.SHA256); !errors.Is(err, ErrAuthFailed) {
		t.Errorf("wrong PIN: %v", err)
	}
	_ = d.Close()

	extendPCR7(t, sim)
	d = newDevice(t, relay.Address(), Options{})
	var policy *PolicyError
	err := trySign(newKey(t, d, file), testPIN, crypto.SHA256)
	if !errors.As(err, &policy) || !strings.Contains(err.Error(), `"before the update": PCR sha256:7`) || !strings.Contains(err.Error(), `"after the update": PCR sha256:7`) {
		t.Errorf("none fits: %v", err)
	}
	_ = d.Close()

	nowSig[9] ^= 1
	key.AuthPolicy = []tpmtest.AuthPolicy{{Name: "forged", Policy: []tpmtest.PolicyStep{authorize(nowSig)}}}
	forged := sim.ToolKey(t, key)
	d = newDevice(t, relay.Address(), Options{})
	err = trySign(newKey(t, d, forged), testPIN, crypto.SHA256)
	if !errors.As(err, &policy) || policy.Alternative != "forged" || policy.Step != "the signature of its signed policy is not valid" {
		t.Errorf("forged: %v", err)
	}
}

func TestPolicyThatKeyFilesCannotCarryOut(t *testing.T) {
	sim := tpmtest.Start(t)
	m := newPolicy(t, sim)
	m.authValue()
	digest := m.digest()
	d := newDevice(t, sim.Address(), Options{})
	for _, code := range []tpm2.TPMCC{tpm2.TPMCCPolicyOR, tpm2.TPMCCPolicySigned, tpm2.TPMCCPolicyNV} {
		file := sim.ToolKey(t, tpmtest.ToolKey{
			Attributes: onlyPolicy, PolicyDigest: digest,
			Policy: []tpmtest.PolicyStep{{Code: uint32(code), Body: []byte{0}}},
		})
		if err := tryKey(d, file); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%#x: %v", uint32(code), err)
		}
	}
	// PolicyPassword is the same policy as PolicyAuthValue, and is executed as
	// the latter.
	file := sim.ToolKey(t, tpmtest.ToolKey{
		Attributes: onlyPolicy, PIN: testPIN, PolicyDigest: digest,
		Policy: []tpmtest.PolicyStep{{Code: uint32(tpm2.TPMCCPolicyPassword)}},
	})
	// A file whose steps are not those that the key was made with.
	wrong := sim.ToolKey(t, tpmtest.ToolKey{
		Attributes: onlyPolicy, PolicyDigest: make([]byte, 32),
		Policy: []tpmtest.PolicyStep{{Code: uint32(tpm2.TPMCCPolicyLocality), Body: []byte{1}}},
	})
	relay := sim.Relay()
	d2 := newDevice(t, relay.Address(), Options{})
	signs(t, newKey(t, d2, file), testPIN)
	if relay.Contains([]byte(testPIN)) {
		t.Error("the PIN was on the bus")
	}
	var policy *PolicyError
	if err := trySign(newKey(t, d2, wrong), "", crypto.SHA256); !errors.As(err, &policy) {
		t.Errorf("got %v", err)
	}
}
