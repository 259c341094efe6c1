package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/tpm/keyfile"
)

// A step is one command of a policy, with the body that the key file has for
// it. Draft-bottomley-tpm2-keys, "Key Policy Specification".
type step struct {
	code tpm2.TPMCC
	body []byte // what follows the session's handle in the command

	secret    *secretStep
	authorize *authorizeStep
}

// A secretStep demands the authorization of some other entity.
type secretStep struct {
	hint uint32 // where the entity was when the file was made, or 0
	name []byte
	ref  []byte
}

// An authorizeStep replaces the policy so far by one that somebody signed.
type authorizeStep struct {
	area      []byte // public area of the signer
	name      []byte
	ref       []byte
	signature []byte // TPMT_SIGNATURE
	signed    bool   // false: this stands for any of the file's alternatives
}

// An alternative is a policy that satisfies a leading PolicyAuthorize.
type alternative struct {
	name  string
	steps []step
}

// PolicyPassword and PolicyAuthValue make the same policy: the first would send
// the auth value in the clear, so the second is always executed instead.
const authValueCode = tpm2.TPMCCPolicyAuthValue

func parsePolicy(f *keyfile.File) ([]step, []alternative, error) {
	steps, err := parseSteps(f.Policy)
	if err != nil {
		return nil, nil, err
	}
	var alts []alternative
	for _, a := range f.AuthPolicy {
		s, err := parseSteps(a.Policy)
		if err != nil {
			return nil, nil, fmt.Errorf("signed policy %q: %w", a.Name, err)
		}
		alts = append(alts, alternative{a.Name, s})
	}
	return steps, alts, nil
}

func parseSteps(in []keyfile.PolicyStep) ([]step, error) {
	var out []step
	for i, p := range in {
		s := step{code: tpm2.TPMCC(p.Code), body: bytes.Clone(p.Body)}
		var err error
		switch s.code {
		case tpm2.TPMCCPolicyPCR, tpm2.TPMCCPolicyLocality, tpm2.TPMCCPolicyCounterTimer, tpm2.TPMCCPolicyCommandCode:
		case tpm2.TPMCCPolicyAuthValue, tpm2.TPMCCPolicyPassword:
			s.code, s.body = authValueCode, nil
		case tpm2.TPMCCPolicySecret:
			s.secret, err = parseSecret(p.Body)
		case tpm2.TPMCCPolicyAuthorize:
			s.authorize, err = parseAuthorize(p.Body)
		default:
			return nil, fmt.Errorf("%w: step %d of the key's policy is of a kind that key files cannot carry out (command %#x)", ErrUnsupported, i+1, p.Code)
		}
		if err != nil {
			return nil, fmt.Errorf("step %d of the key's policy: %w", i+1, err)
		}
		out = append(out, s)
	}
	return out, nil
}

var errShort = errors.New("it ends too early")

// cut2B takes a sized buffer off the front.
func cut2B(b []byte) (content, rest []byte, err error) {
	if len(b) < 2 {
		return nil, nil, errShort
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, errShort
	}
	return b[2 : 2+n], b[2+n:], nil
}

func parseSecret(b []byte) (*secretStep, error) {
	if len(b) < 4 {
		return nil, errShort
	}
	s := &secretStep{hint: binary.BigEndian.Uint32(b)}
	name, rest, err := cut2B(b[4:])
	if err != nil {
		return nil, err
	}
	ref, rest, err := cut2B(rest)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 || len(name) < 4 {
		return nil, errors.New("it is not a PolicySecret")
	}
	s.name, s.ref = bytes.Clone(name), bytes.Clone(ref)
	return s, nil
}

func parseAuthorize(b []byte) (*authorizeStep, error) {
	area, rest, err := cut2B(b)
	if err != nil {
		return nil, err
	}
	ref, sig, err := cut2B(rest)
	if err != nil {
		return nil, err
	}
	if len(sig) < 2 {
		return nil, errShort
	}
	name, err := nameOf(area)
	if err != nil {
		return nil, err
	}
	return &authorizeStep{
		area:      bytes.Clone(area),
		name:      name,
		ref:       bytes.Clone(ref),
		signature: bytes.Clone(sig),
		signed:    tpm2.TPMAlgID(binary.BigEndian.Uint16(sig)) != tpm2.TPMAlgNull,
	}, nil
}

// policyWantsAuth says whether some way through the key's policy needs its auth
// value.
func (k *Key) policyWantsAuth() bool {
	if wantsAuth(k.policy) {
		return true
	}
	for _, a := range k.alternatives {
		if wantsAuth(a.steps) {
			return true
		}
	}
	return false
}

func wantsAuth(steps []step) bool {
	for _, s := range steps {
		if s.code == authValueCode {
			return true
		}
	}
	return false
}

// unmet says in words that a step is not satisfied.
func (s step) unmet() string {
	switch s.code {
	case tpm2.TPMCCPolicyPCR:
		return pcrNames(s.body) + " has changed since the key was made"
	case tpm2.TPMCCPolicyLocality:
		return "it may only be used from locality " + localities(s.body)
	case tpm2.TPMCCPolicyCounterTimer:
		return counterName(s.body) + " is not within what the key allows"
	case tpm2.TPMCCPolicyCommandCode:
		return "it may not be used for signing"
	case tpm2.TPMCCPolicySecret:
		return "the authorization of " + s.secret.entity() + " was not given"
	case tpm2.TPMCCPolicyAuthorize:
		return "the signature of its signed policy is not valid"
	}
	return "its PIN was not given"
}

func (s *secretStep) entity() string {
	if len(s.name) == 4 {
		return handleName(binary.BigEndian.Uint32(s.name))
	}
	if s.hint != 0 {
		return handleName(s.hint)
	}
	return fmt.Sprintf("the TPM object named %x", s.name)
}

// pcrNames lists the registers of a PolicyPCR: "PCR sha256:0,7".
func pcrNames(body []byte) string {
	_, rest, err := cut2B(body)
	if err != nil {
		return "a PCR"
	}
	sel, err := tpm2.Unmarshal[tpm2.TPMLPCRSelection](rest)
	if err != nil {
		return "a PCR"
	}
	var banks []string
	for _, bank := range sel.PCRSelections {
		var regs []string
		for i, b := range bank.PCRSelect {
			for bit := range 8 {
				if b&(1<<bit) != 0 {
					regs = append(regs, fmt.Sprint(i*8+bit))
				}
			}
		}
		name, ok := map[tpm2.TPMIAlgHash]string{
			tpm2.TPMAlgSHA1: "sha1", tpm2.TPMAlgSHA256: "sha256", tpm2.TPMAlgSHA384: "sha384", tpm2.TPMAlgSHA512: "sha512",
		}[bank.Hash]
		if !ok {
			name = fmt.Sprintf("%#x", uint16(bank.Hash))
		}
		banks = append(banks, name+":"+strings.Join(regs, ","))
	}
	return "PCR " + strings.Join(banks, "+")
}

// openPCR says whether a PolicyPCR leaves it to the TPM to say what the
// registers are, so that a change shows only when the key is used.
func (s step) openPCR() bool {
	digest, _, err := cut2B(s.body)
	return s.code == tpm2.TPMCCPolicyPCR && err == nil && len(digest) == 0
}

func localities(body []byte) string {
	if len(body) != 1 {
		return "?"
	}
	if body[0] >= 32 {
		return fmt.Sprint(body[0])
	}
	var l []string
	for i := range 5 {
		if body[0]&(1<<i) != 0 {
			l = append(l, fmt.Sprint(i))
		}
	}
	return strings.Join(l, " or ")
}

// counterName says which field of TPMS_TIME_INFO a PolicyCounterTimer compares.
func counterName(body []byte) string {
	_, rest, err := cut2B(body)
	if err != nil || len(rest) < 2 {
		return "the TPM's clock"
	}
	switch offset := binary.BigEndian.Uint16(rest); {
	case offset < 8:
		return "the time since the TPM was started"
	case offset < 16:
		return "the TPM's clock"
	case offset < 20:
		return "the number of the TPM's resets"
	case offset < 24:
		return "the number of the TPM's restarts"
	}
	return "the safety of the TPM's clock"
}
