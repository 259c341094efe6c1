package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/tpm/attest"
	"github.com/keyringd/keyringd/tpm/keyfile"
)

// Attest has the TPM say that the key of a file lives in it: TPM2_Certify by an
// attestation key, and returns the statement with all that is needed to check
// it elsewhere. nonce, of at most 32 bytes, is certified along; auth is the
// key's, and is spent as in [Key.Sign], with the same errors.
//
// The attestation key is a primary of the endorsement hierarchy, restricted, so
// that it signs nothing that somebody made up, and made anew each time from a
// fixed template: it is the same for all users and keys of this TPM until its
// maker's seed is changed, which is what makes it worth remembering, and also
// lets two verifiers tell that they speak to the same machine. Package attest
// says what the statement proves and what it does not.
//
// It takes Load, StartAuthSession, CreatePrimary, Certify, and a Flush for each
// key; then up to 8 commands for the endorsement key and its certificate.
func (d *Device) Attest(ctx context.Context, f *keyfile.File, auth secret.Bytes, nonce []byte) (*attest.Bundle, error) {
	if len(nonce) > maxNonce {
		return nil, fmt.Errorf("%w: a nonce of %d bytes; at most %d are certified", ErrUnsupported, len(nonce), maxNonce)
	}
	k, err := d.object(f)
	if err != nil {
		return nil, err
	}
	if k.pub.ObjectAttributes.AdminWithPolicy {
		return nil, fmt.Errorf("%w: the key was made so that it can only be certified under a policy", ErrUnsupported)
	}
	if err := k.fits(auth); err != nil {
		return nil, err
	}
	mine := auth.Clone()
	var b *attest.Bundle
	err = d.whole(ctx, func(ctx context.Context, s *space) error {
		err := s.withObject(ctx, k, func(h tpm2.TPMHandle) (err error) {
			b, err = s.certify(ctx, k, h, mine, nonce)
			return err
		})
		if err != nil {
			return err
		}
		b.EndorsementCertificate, b.EndorsementKey, err = s.endorsement()
		return err
	})
	release(ctx, mine)
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	return b, nil
}

// maxNonce is what fits into a TPM2B_DATA of every TPM, less what the TPM itself
// might put there.
const maxNonce = 32

// attestation is the template of the attestation key. Part 1, "Restricted
// Signing Keys": what it signs begins with TPM_GENERATED_VALUE or was hashed by
// the TPM and does not.
func attestation() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

func (s *space) certify(ctx context.Context, k *Key, h tpm2.TPMHandle, auth secret.Bytes, nonce []byte) (*attest.Bundle, error) {
	ses, err := s.adminSession(k, auth)
	if err != nil {
		return nil, err
	}
	s.inUsePar = nil
	var b *attest.Bundle
	err = s.withPrimary(tpm2.TPMRHEndorsement, attestation(), func(ak tpm2.NamedHandle, area []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		rsp, err := tpm2.Certify{
			ObjectHandle:   tpm2.AuthHandle{Handle: h, Name: k.name, Auth: ses.with(auth, true)},
			SignHandle:     tpm2.AuthHandle{Handle: ak.Handle, Name: ak.Name, Auth: empty()},
			QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(s)
		if err != nil {
			return s.adminRefused(err)
		}
		b = &attest.Bundle{
			Format:         attest.Format,
			Key:            k.area,
			AttestationKey: area,
			Attest:         rsp.CertifyInfo.Bytes(),
			Signature:      tpm2.Marshal(rsp.Signature),
		}
		return nil
	})
	return b, err
}

// withPrimary calls fn with a primary key that lasts as long as fn runs.
func (s *space) withPrimary(hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic, fn func(h tpm2.NamedHandle, area []byte) error) error {
	auth, err := s.entityAuth(uint32(hierarchy), tpm2.HandleName(hierarchy), false)
	if err != nil {
		return err
	}
	if err := s.makeRoom(1, true); err != nil {
		return err
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: auth},
		InPublic:      tpm2.New2B(template),
	}.Execute(s)
	if err != nil {
		return s.entityRefused(uint32(hierarchy), fmt.Errorf("make a key of %s: %w", handleName(uint32(hierarchy)), err))
	}
	area := rsp.OutPublic.Bytes()
	name, err := nameOf(area)
	if err == nil {
		err = fn(tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: tpm2.TPM2BName{Buffer: name}}, area)
	}
	if flushErr := s.flush(rsp.ObjectHandle); err == nil {
		err = flushErr
	}
	return err
}

// Where the endorsement key's certificate lies. EK Credential Profile 2.2.1.4.
const (
	certificateECC = 0x01C0000A
	certificateRSA = 0x01C00002
)

// endorsement returns the endorsement key's certificate, or where there is none
// the public area of the P-256 endorsement key.
func (s *space) endorsement() (certificate, area []byte, err error) {
	for _, index := range []tpm2.TPMHandle{certificateECC, certificateRSA} {
		if certificate, err = s.readNV(index); err != nil || certificate != nil {
			return certificate, nil, err
		}
	}
	err = s.withPrimary(tpm2.TPMRHEndorsement, tpm2.ECCEKTemplate, func(_ tpm2.NamedHandle, b []byte) error {
		area = b
		return nil
	})
	return nil, area, err
}

const (
	maxNV   = 16 << 10 // certificates have 1 to 2 KiB
	nvChunk = 512      // what the smallest TPMs give at a time
)

// readNV reads an index that anybody may read; nil if there is no such index.
func (s *space) readNV(index tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(s)
	if isAny(err, tpm2.TPMRCHandle, tpm2.TPMRCValue) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the endorsement certificate: %w", err)
	}
	pub, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("read the endorsement certificate: %w", err)
	}
	if pub.DataSize > maxNV || !pub.Attributes.Written || !pub.Attributes.AuthRead || !pub.Attributes.NoDA {
		return nil, nil // not the certificate that makers put there
	}
	var out []byte
	for len(out) < int(pub.DataSize) {
		n := min(int(pub.DataSize)-len(out), nvChunk)
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: rsp.NVName, Auth: empty()},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: rsp.NVName},
			Size:       uint16(n),        // at most nvChunk
			Offset:     uint16(len(out)), // at most maxNV
		}.Execute(s)
		if isAuth(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the endorsement certificate: %w", err)
		}
		if len(rsp.Data.Buffer) != n {
			return nil, fmt.Errorf("read the endorsement certificate: %w: %d bytes of %d", ErrUnavailable, len(rsp.Data.Buffer), n)
		}
		out = append(out, rsp.Data.Buffer...)
	}
	return out, nil
}
