package tpm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// An Algorithm is a kind of key that can be made, by the name that a user types.
type Algorithm string

// The algorithms that [Device.Create] knows. Which of them a TPM has is its own
// affair: see [Device.Algorithms].
const (
	ECDSAP256 Algorithm = "ecdsa-p256"
	ECDSAP384 Algorithm = "ecdsa-p384"
	ECDSAP521 Algorithm = "ecdsa-p521"
	RSA2048   Algorithm = "rsa-2048"
	RSA3072   Algorithm = "rsa-3072"
	RSA4096   Algorithm = "rsa-4096"
)

// Algorithms returns all that are known, the usual one first.
func Algorithms() []Algorithm {
	return []Algorithm{ECDSAP256, ECDSAP384, ECDSAP521, RSA2048, RSA3072, RSA4096}
}

// MaxAuth is how many bytes an auth value can have: as many as the SHA-256 that
// names all objects made here. Part 1, "Authorization Values".
const MaxAuth = sha256.Size

// A Template says how a key or sealed data is to be made. Its zero value makes
// a P-256 key under the storage root key, to be used at any time.
type Template struct {
	Algorithm Algorithm // "" for ECDSAP256; sealed data has none
	Derive    bool      // an EC key does ECDH, too; RSA keys decrypt in any case

	// Parent is a persistent handle (0x81……) or a hierarchy (0x40……), whose
	// P-256 storage key is meant; 0 for the owner's.
	Parent uint32

	// PCRs binds the object to the present values of some registers: when they
	// change, it cannot be used any more, and nothing brings it back.
	PCRs []PCRBank

	// Description is written into the file where a person asked for it.
	// tpm2-openssl and others cannot read a file that has one.
	Description string
}

// A PCRBank is a choice of registers in one bank.
type PCRBank struct {
	Hash      string // "sha1", "sha256", "sha384", "sha512"
	Registers []int  // sorted, 0 to 23
}

// ParsePCRs reads "sha256:0,7" or, for several banks, "sha1:0+sha256:7", as
// tpm2-tools write a choice of registers. "" is none.
func ParsePCRs(s string) ([]PCRBank, error) {
	if s == "" {
		return nil, nil
	}
	var banks []PCRBank
	for part := range strings.SplitSeq(s, "+") {
		name, list, ok := strings.Cut(part, ":")
		bank := PCRBank{Hash: strings.ToLower(name)}
		if _, known := pcrHash(bank.Hash); !ok || !known {
			return nil, fmt.Errorf("PCRs %q: want BANK:REGISTER,… such as sha256:0,7", part)
		}
		for reg := range strings.SplitSeq(list, ",") {
			n, err := strconv.Atoi(reg)
			if err != nil || n < 0 || n >= numPCRs {
				return nil, fmt.Errorf("PCRs %q: %q is not a register from 0 to %d", part, reg, numPCRs-1)
			}
			bank.Registers = append(bank.Registers, n)
		}
		slices.Sort(bank.Registers)
		bank.Registers = slices.Compact(bank.Registers)
		if slices.ContainsFunc(banks, func(b PCRBank) bool { return b.Hash == bank.Hash }) {
			return nil, fmt.Errorf("PCRs %q: bank %s is named twice", s, bank.Hash)
		}
		banks = append(banks, bank)
	}
	return banks, nil
}

// numPCRs is what every PC has. PC Client Platform TPM Profile, "PCR".
const numPCRs = 24

func pcrHash(name string) (tpm2.TPMIAlgHash, bool) {
	switch name {
	case "sha1":
		return tpm2.TPMAlgSHA1, true
	case "sha256":
		return tpm2.TPMAlgSHA256, true
	case "sha384":
		return tpm2.TPMAlgSHA384, true
	case "sha512":
		return tpm2.TPMAlgSHA512, true
	}
	return 0, false
}

func selectionOf(banks []PCRBank) (tpm2.TPMLPCRSelection, error) {
	var sel tpm2.TPMLPCRSelection
	for _, b := range banks {
		hash, ok := pcrHash(b.Hash)
		if !ok || len(b.Registers) == 0 {
			return sel, fmt.Errorf("PCR bank %q: %w", b.Hash, ErrUnsupported)
		}
		bits := make([]byte, numPCRs/8)
		for _, r := range b.Registers {
			if r < 0 || r >= numPCRs {
				return sel, fmt.Errorf("PCR %d: %w", r, ErrUnsupported)
			}
			bits[r/8] |= 1 << (r % 8)
		}
		sel.PCRSelections = append(sel.PCRSelections, tpm2.TPMSPCRSelection{Hash: hash, PCRSelect: bits})
	}
	return sel, nil
}

// A policy is what the file says to do, and the digest that this gives.
type policy struct {
	steps  []keyfile.PolicyStep
	digest []byte
}

func (p *policy) add(code tpm2.TPMCC, body, extra []byte) {
	if p.digest == nil {
		p.digest = make([]byte, sha256.Size)
	}
	h := sha256.New()
	h.Write(p.digest)
	_ = binary.Write(h, binary.BigEndian, uint32(code))
	h.Write(extra)
	p.digest = h.Sum(nil)
	p.steps = append(p.steps, keyfile.PolicyStep{Code: uint32(code), Body: body})
}

// policyFor makes the policy of an object that is bound to registers as they
// are now. With an auth value that is asked for as well, the object's userWithAuth
// must be clear, or the auth value alone would do. Part 3, "TPM2_PolicyPCR".
func (s *space) policyFor(banks []PCRBank, withAuth bool) (policy, error) {
	var p policy
	if len(banks) == 0 {
		return p, nil
	}
	sel, err := selectionOf(banks)
	if err != nil {
		return p, err
	}
	values := sha256.New()
	for i, b := range banks {
		if err := s.readPCRs(sel.PCRSelections[i], b, values.Write); err != nil {
			return p, err
		}
	}
	digest := values.Sum(nil)
	picked := tpm2.Marshal(sel)
	// The digest is written out, so that the TPM names a changed register at the
	// step itself and not only when the key is used.
	body := append(tpm2.Marshal(tpm2.TPM2BDigest{Buffer: digest}), picked...)
	p.add(tpm2.TPMCCPolicyPCR, body, append(picked, digest...))
	if withAuth {
		p.add(tpm2.TPMCCPolicyAuthValue, nil, nil)
	}
	return p, nil
}

// readPCRs reads the registers of one bank in their order: a TPM returns at most
// eight in one answer.
func (s *space) readPCRs(want tpm2.TPMSPCRSelection, b PCRBank, write func([]byte) (int, error)) error {
	left := slices.Clone(want.PCRSelect)
	for got := 0; got < len(b.Registers); {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{
			PCRSelections: []tpm2.TPMSPCRSelection{{Hash: want.Hash, PCRSelect: left}},
		}}.Execute(s)
		if err != nil {
			return fmt.Errorf("read PCR %s: %w", b.Hash, err)
		}
		out := rsp.PCRSelectionOut.PCRSelections
		if len(rsp.PCRValues.Digests) == 0 || len(out) != 1 || out[0].Hash != want.Hash || len(out[0].PCRSelect) > len(left) {
			return fmt.Errorf("%w: this TPM does not measure into the bank %s", ErrUnsupported, b.Hash)
		}
		for i, bits := range out[0].PCRSelect {
			left[i] &^= bits
		}
		for _, d := range rsp.PCRValues.Digests {
			_, _ = write(d.Buffer)
			got++
		}
	}
	return nil
}

// shared are the attributes that every object made here has. The one with an
// auth value is protected against guessing; one without has no use for it, and
// would only be locked along with the others.
func shared(auth secret.Bytes, p policy) tpm2.TPMAObject {
	return tpm2.TPMAObject{
		UserWithAuth: len(p.steps) == 0,
		NoDA:         auth.Len() == 0,
	}
}

// keyArea returns the public area of a key of an algorithm, without the key.
func keyArea(alg Algorithm, attributes tpm2.TPMAObject, p policy) (*tpm2.TPMTPublic, error) {
	area := &tpm2.TPMTPublic{
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: attributes,
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: p.digest},
	}
	area.ObjectAttributes.SignEncrypt = true
	parms, err := alg.parms()
	if err != nil {
		return nil, err
	}
	area.Type = parms.Type
	if parms.Type == tpm2.TPMAlgRSA {
		// So that paddings the TPM does not know can be made outside of it, such
		// as PSS with the salt that TLS wants.
		area.ObjectAttributes.Decrypt = true
		d, err := parms.Parameters.RSADetail()
		if err != nil {
			return nil, err
		}
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, d)
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
		return area, nil
	}
	d, err := parms.Parameters.ECCDetail()
	if err != nil {
		return nil, err
	}
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, d)
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return area, nil
}

// parms returns what TPM2_TestParms can be asked about an algorithm.
func (a Algorithm) parms() (tpm2.TPMTPublicParms, error) {
	ecc := func(curve tpm2.TPMECCCurve) (tpm2.TPMTPublicParms, error) {
		return tpm2.TPMTPublicParms{
			Type:       tpm2.TPMAlgECC,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve}),
		}, nil
	}
	rsa := func(bits tpm2.TPMKeyBits) (tpm2.TPMTPublicParms, error) {
		return tpm2.TPMTPublicParms{
			Type:       tpm2.TPMAlgRSA,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: bits}),
		}, nil
	}
	switch a {
	case ECDSAP256, "":
		return ecc(tpm2.TPMECCNistP256)
	case ECDSAP384:
		return ecc(tpm2.TPMECCNistP384)
	case ECDSAP521:
		return ecc(tpm2.TPMECCNistP521)
	case RSA2048:
		return rsa(2048)
	case RSA3072:
		return rsa(3072)
	case RSA4096:
		return rsa(4096)
	}
	var names []string
	for _, known := range Algorithms() {
		names = append(names, string(known))
	}
	return tpm2.TPMTPublicParms{}, fmt.Errorf("%w: no algorithm %q; there are %s", ErrUnsupported, string(a), strings.Join(names, ", "))
}

// Algorithms asks the TPM which of [Algorithms] it has: one TPM2_TestParms for
// each, six in all.
func (d *Device) Algorithms(ctx context.Context) ([]Algorithm, error) {
	var has []Algorithm
	err := d.whole(ctx, func(_ context.Context, s *space) (err error) {
		has, err = s.algorithms()
		return err
	})
	return has, err
}

func (s *space) algorithms() ([]Algorithm, error) {
	var has []Algorithm
	for _, a := range Algorithms() {
		parms, err := a.parms()
		if err != nil {
			return nil, err
		}
		_, err = tpm2.TestParms{Parameters: parms}.Execute(s)
		switch {
		case err == nil:
			has = append(has, a)
		case !isUnsupported(err):
			return nil, fmt.Errorf("ask for %s: %w", a, err)
		}
	}
	return has, nil
}

// lacking says that the TPM has no keys of an algorithm, and which it has.
func (s *space) lacking(a Algorithm, err error) error {
	has, askErr := s.algorithms()
	if askErr != nil {
		return askErr
	}
	if slices.Contains(has, a) {
		return fmt.Errorf("%w: this TPM does not make such a key: %w", ErrUnsupported, err)
	}
	var names []string
	for _, h := range has {
		names = append(names, string(h))
	}
	return fmt.Errorf("%w: this TPM has no %s; it has %s", ErrUnsupported, a, strings.Join(names, ", "))
}

// checkAuth refuses an auth value that no object made here can have.
func checkAuth(auth secret.Bytes) error {
	var err error
	auth.Use(func(b []byte) {
		switch {
		case len(b) > MaxAuth:
			err = fmt.Errorf("%w: a PIN can have at most %d bytes", ErrUnsupported, MaxAuth)
		case len(b) > 0 && b[len(b)-1] == 0:
			err = fmt.Errorf("%w: a PIN cannot end in a zero byte", ErrUnsupported)
		}
	})
	return err
}

// whole runs op with a turn at the space that belongs to no key, and asks for
// the auth values of parents and hierarchies that it turns out to need.
func (d *Device) whole(ctx context.Context, op func(context.Context, *space) error) error {
	for asked := 0; ; asked++ {
		err := d.use(ctx, d.commons(), func(ctx context.Context, s *space) error {
			s.inUse, s.inUsePar, s.inUseSes = nil, nil, nil
			return op(ctx, s)
		})
		var need *needAuthError
		if !errors.As(err, &need) {
			return err
		}
		if asked == maxAsked {
			return fmt.Errorf("%w: %s: %w", ErrAuthFailed, need.Error(), need.err)
		}
		if err := d.askAuth(ctx, need); err != nil {
			return err
		}
	}
}
