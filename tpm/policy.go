package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
)

// underPolicy calls try with a session in which the key's policy was executed.
// Where the file has signed alternatives, the first that can be satisfied is
// used, in their order.
func (s *space) underPolicy(k *Key, auth secret.Bytes, try func(tpm2.Session) error) error {
	first := k.policy[0].authorize
	if first == nil || first.signed {
		return s.underSteps(k, "", k.policy, auth, try)
	}
	if len(k.alternatives) == 0 {
		return &PolicyError{Step: "it needs a signed policy, and its file has none"}
	}
	var unmet []*PolicyError
	for _, a := range k.alternatives {
		steps := append(append([]step(nil), a.steps...), k.policy[1:]...)
		err := s.underSteps(k, a.name, steps, auth, try)
		var policy *PolicyError
		if !errors.As(err, &policy) {
			return err
		}
		unmet = append(unmet, policy)
	}
	if len(unmet) == 1 {
		return unmet[0]
	}
	var why []string
	for _, e := range unmet {
		why = append(why, fmt.Sprintf("%q: %s", e.Alternative, e.Step))
	}
	return &PolicyError{Step: "none of its signed policies is (" + strings.Join(why, "; ") + ")", Err: unmet[0].Err}
}

// maxPCRRaces bounds how often a policy is executed again because a PCR was
// extended before the key was used.
const maxPCRRaces = 2

func (s *space) underSteps(k *Key, name string, steps []step, auth secret.Bytes, try func(tpm2.Session) error) error {
	for race := 0; ; race++ {
		err := s.execute(k, name, steps, auth, try)
		if err == nil {
			s.halfway = false // the TPM resets a policy session that was used
			return nil
		}
		if !isAny(err, tpm2.TPMRCPCRChanged) || race == maxPCRRaces {
			return s.policyRefused(name, steps, err)
		}
	}
}

func (s *space) execute(k *Key, name string, steps []step, auth secret.Bytes, try func(tpm2.Session) error) error {
	useAuth := wantsAuth(steps)
	ses, err := s.policySession(k, useAuth && auth.Len() > 0)
	if err != nil {
		return err
	}
	for _, st := range steps {
		s.halfway = true
		if err := s.step(k, ses, st); err != nil {
			return stepFailed(name, st, err)
		}
	}
	ses.with(auth, useAuth)
	// The key of parameter encryption contains the auth value in any case.
	ses.encrypt = ses.encrypt && useAuth
	return try(ses)
}

// stepFailed names the step that the TPM found not to be satisfied; any other
// error stays what it is.
func stepFailed(name string, st step, err error) error {
	switch {
	case known(err) || stale(err):
		return err
	case isAny(err, tpm2.TPMRCValue, tpm2.TPMRCPolicy, tpm2.TPMRCLocality, tpm2.TPMRCSignature, tpm2.TPMRCTicket,
		tpm2.TPMRCRange, tpm2.TPMRCSize, tpm2.TPMRCPCR, tpm2.TPMRCExpired, tpm2.TPMRCPCRChanged, tpm2.TPMRCPolicyCC,
		tpm2.TPMRCScheme, tpm2.TPMRCKey, tpm2.TPMRCHash):
		return &PolicyError{Alternative: name, Step: st.unmet(), Err: err}
	}
	return err
}

// policyRefused says which step it must have been when the key was refused
// after all its steps were executed.
func (s *space) policyRefused(name string, steps []step, err error) error {
	find := func(match func(step) bool) (step, bool) {
		for _, st := range steps {
			if match(st) {
				return st, true
			}
		}
		return step{}, false
	}
	is := func(code tpm2.TPMCC) func(step) bool {
		return func(st step) bool { return st.code == code }
	}
	var st step
	var ok bool
	switch {
	case isAny(err, tpm2.TPMRCLocality):
		st, ok = find(is(tpm2.TPMCCPolicyLocality))
	case isAny(err, tpm2.TPMRCPolicyCC):
		st, ok = find(is(tpm2.TPMCCPolicyCommandCode))
	case isAny(err, tpm2.TPMRCPCRChanged):
		st, ok = find(is(tpm2.TPMCCPolicyPCR))
	case isAny(err, tpm2.TPMRCPolicyFail):
		if st, ok = find(step.openPCR); !ok {
			return &PolicyError{Alternative: name, Step: "the steps in its file do not make up the policy it was made with", Err: err}
		}
	}
	if ok {
		return &PolicyError{Alternative: name, Step: st.unmet(), Err: err}
	}
	return err
}

// policySession returns a policy session with nothing executed in it; salted if
// the auth value will go through it.
func (s *space) policySession(k *Key, salted bool) (*session, error) {
	hash, err := k.pub.NameAlg.Hash()
	if err != nil {
		return nil, fmt.Errorf("%w: name algorithm: %w", ErrUnsupported, err)
	}
	if ses := s.policy; ses.usable() && ses.hash == hash && (ses.checked || !salted) {
		s.inUseSes = ses
		if !s.halfway {
			return ses, nil
		}
		if err := s.bare(policyRestart, ses.handle, nil); err != nil {
			return nil, fmt.Errorf("restart the policy: %w", err)
		}
		s.halfway = false
		return ses, nil
	}
	if err := s.dropPolicy(); err != nil {
		return nil, err
	}
	var p *loadedParent
	if salted {
		if p, err = s.trusted(k); err != nil {
			return nil, err
		}
	}
	ses, err := startSession(s, tpm2.TPMSEPolicy, k.pub.NameAlg, p)
	if err != nil {
		return nil, err
	}
	ses.checked = salted
	s.policy, s.inUseSes, s.halfway = ses, ses, false
	return ses, nil
}

// step executes one step.
func (s *space) step(k *Key, ses *session, st step) error {
	switch {
	case st.secret != nil:
		return s.policySecret(k, ses, st.secret)
	case st.authorize != nil:
		return s.policyAuthorize(k, ses, st.authorize)
	}
	return s.bare(st.code, ses.handle, st.body)
}

// policyRestart is TPM2_PolicyRestart, which go-tpm lacks.
const policyRestart tpm2.TPMCC = 0x180

// bare sends a command of one handle and a body that a key file has ready.
func (s *space) bare(code tpm2.TPMCC, h tpm2.TPMHandle, body []byte) error {
	cmd := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(headerSize+4+len(body)))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(code))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(h))
	rsp, err := s.Send(append(cmd, body...))
	if err != nil {
		return err
	}
	if len(rsp) < headerSize {
		return errors.New("a response without a header")
	}
	if rc := tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])); rc != tpm2.TPMRCSuccess {
		return rc
	}
	return nil
}

// policySecret executes PolicySecret: some other entity's authorization.
func (s *space) policySecret(k *Key, ses *session, st *secretStep) error {
	h, ask, err := s.findEntity(k, st)
	if err != nil {
		return err
	}
	name := tpm2.TPM2BName{Buffer: st.name}
	auth, err := s.entityAuth(uint32(h), name, ask)
	if err != nil {
		return err
	}
	s.inUseSes = ses
	_, err = tpm2.PolicySecret{
		AuthHandle:    tpm2.AuthHandle{Handle: h, Name: name, Auth: auth},
		PolicySession: ses.handle,
		PolicyRef:     tpm2.TPM2BNonce{Buffer: st.ref},
	}.Execute(s)
	if isAuth(err) || isAny(err, tpm2.TPMRCLockout) {
		return s.entityRefused(uint32(h), fmt.Errorf("policy secret: %w", err))
	}
	return err
}

// findEntity finds the entity that a PolicySecret names. ask says that an empty
// auth value must not be tried on it: that might be the try that locks it.
func (s *space) findEntity(k *Key, st *secretStep) (h tpm2.TPMHandle, ask bool, err error) {
	if len(st.name) == 4 {
		h = tpm2.TPMHandle(binary.BigEndian.Uint32(st.name))
		return h, h == tpm2.TPMRHLockout, nil
	}
	var area []byte
	switch tpm2.TPMHT(st.hint >> 24) {
	case tpm2.TPMHTPersistent:
		rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(st.hint)}.Execute(s)
		if err == nil {
			area = rsp.OutPublic.Bytes()
			if pub, err := rsp.OutPublic.Contents(); err == nil {
				ask = !pub.ObjectAttributes.NoDA
			}
		} else if !isAny(err, tpm2.TPMRCHandle, tpm2.TPMRCValue) {
			return 0, false, err
		}
	case tpm2.TPMHTNVIndex:
		rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(st.hint)}.Execute(s)
		if err == nil {
			if pub, err := rsp.NVPublic.Contents(); err == nil {
				ask = !pub.Attributes.NoDA
				name, err := tpm2.NVName(pub)
				if err == nil && bytes.Equal(name.Buffer, st.name) {
					return tpm2.TPMHandle(st.hint), ask, nil
				}
			}
		} else if !isAny(err, tpm2.TPMRCHandle, tpm2.TPMRCValue) {
			return 0, false, err
		}
	default:
		p, err := s.parent(k.parent)
		if err != nil {
			return 0, false, err
		}
		if bytes.Equal(p.name, st.name) {
			return p.handle, false, nil
		}
	}
	if area != nil {
		if name, err := nameOf(area); err == nil && bytes.Equal(name, st.name) {
			return tpm2.TPMHandle(st.hint), ask, nil
		}
	}
	return 0, false, &PolicyError{Step: st.entity() + ", whose authorization it needs, is not in this TPM"}
}

// policyAuthorize executes PolicyAuthorize: what was executed so far was signed
// by the holder of a key. The TPM checks the signature once and gives a ticket,
// which is good until it is cleared and kept for as long as the epoch.
func (s *space) policyAuthorize(k *Key, ses *session, st *authorizeStep) error {
	rsp, err := tpm2.PolicyGetDigest{PolicySession: ses.handle}.Execute(s)
	if err != nil {
		return err
	}
	approved := rsp.PolicyDigest.Buffer
	ticket, err := s.ticket(k, st, approved)
	if err != nil {
		return err
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession:  ses.handle,
		ApprovedPolicy: tpm2.TPM2BDigest{Buffer: approved},
		PolicyRef:      tpm2.TPM2BDigest{Buffer: st.ref},
		KeySign:        tpm2.TPM2BName{Buffer: st.name},
		CheckTicket:    ticket,
	}.Execute(s)
	return err
}

func (s *space) ticket(k *Key, st *authorizeStep, approved []byte) (tpm2.TPMTTKVerified, error) {
	id := string(st.name) + string(approved) + string(st.ref) + string(st.signature)
	k.mu.Lock()
	if k.tickets == nil || k.ticketsOf != s.epoch {
		k.tickets, k.ticketsOf = make(map[string]tpm2.TPMTTKVerified), s.epoch
	}
	ticket, ok := k.tickets[id]
	k.mu.Unlock()
	if ok {
		return ticket, nil
	}
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](st.signature)
	if err != nil {
		return ticket, fmt.Errorf("the signature of the signed policy: %w", err)
	}
	hash, err := tpm2.TPMIAlgHash(binary.BigEndian.Uint16(st.name)).Hash()
	if err != nil {
		return ticket, fmt.Errorf("%w: the signer's name algorithm: %w", ErrUnsupported, err)
	}
	h := hash.New()
	h.Write(approved)
	h.Write(st.ref)
	if err := s.makeRoom(1, true); err != nil {
		return ticket, err
	}
	// The hierarchy makes it a ticket that counts.
	key, err := tpm2.LoadExternal{
		InPublic:  tpm2.BytesAs2B[tpm2.TPMTPublic](st.area),
		Hierarchy: tpm2.TPMRHOwner,
	}.Execute(s)
	if err != nil {
		return ticket, fmt.Errorf("load the signer's key: %w", err)
	}
	verified, err := tpm2.VerifySignature{
		KeyHandle: tpm2.NamedHandle{Handle: key.ObjectHandle, Name: tpm2.TPM2BName{Buffer: st.name}},
		Digest:    tpm2.TPM2BDigest{Buffer: h.Sum(nil)},
		Signature: *sig,
	}.Execute(s)
	if flushErr := s.flush(key.ObjectHandle); err == nil {
		err = flushErr
	}
	if err != nil {
		return ticket, fmt.Errorf("check the signed policy: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ticketsOf == s.epoch {
		k.tickets[id] = verified.Validation
	}
	return verified.Validation, nil
}
