package pkcs11

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"unicode"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// generateRandom is C_GenerateRandom, §5.16. Those of the TPM's token are the
// TPM's and the kernel's, combined; where the TPM does not answer, and of the
// other token, they are the kernel's alone.
func (q *request) generateRandom() error {
	id, room := q.in.Ulong(), q.in.Room()
	return q.inSession(id, func(s *session) error {
		if room > maxRandom {
			return p11rpc.ArgumentsBad
		}
		b := make([]byte, room)
		if q.server.random == nil || s.slot != slotOf(keyring.KindTPM) {
			_, _ = rand.Read(b) // it does not fail
			q.out.Data(b)
			return nil
		}
		return q.wait(len(b), func() error {
			if err := q.server.random(s.ctx, b); err != nil {
				if s.ctx.Err() != nil {
					return q.inTime(s, err)
				}
				q.log(slog.LevelDebug, "random numbers are the kernel's", slog.Any("err", err))
				_, _ = rand.Read(b)
			}
			q.out.Data(b)
			return nil
		})
	})
}

// maxRandom is how many random bytes one call gives, so that four bytes of
// request cannot ask for four gigabytes.
const maxRandom = 64 << 10

// generateKeyPair is C_GenerateKeyPair, §5.13. The key's name and comment are its
// CKA_LABEL; its CKA_ID is its own, whatever the program would like. It has a PIN,
// which the user chooses, unless the program says that the private key is not to
// be private (CKA_PRIVATE): then nobody is asked.
func (q *request) generateKeyPair() error {
	id, given := q.in.Ulong(), q.in.Mechanism()
	public, private := q.in.Attributes(), q.in.Attributes()
	return q.inSession(id, func(s *session) error {
		m, ok := mechanismOf(uint64(given.Type))
		switch {
		case !ok || m.flags()&flagGenerateKeyPair == 0:
			return p11rpc.MechanismInvalid
		case !q.mayMake(s):
			return p11rpc.TokenWriteProtected
		case !s.writing:
			return p11rpc.SessionReadOnly
		case !q.seesPrivate(s.slot):
			return p11rpc.UserNotLoggedIn
		}
		create, err := wantedKey(m, public, private)
		if err != nil {
			return err
		}
		create.Caller = q.peer()
		return q.wait(0, func() error {
			made, err := q.make(s.ctx, create)
			if err != nil {
				return q.inTime(s, err)
			}
			return q.handOver(made.ID)
		})
	})
}

// mayMake reports whether keys are made in the session's slot.
func (q *request) mayMake(s *session) bool {
	return q.server.maker != nil && s.slot == slotOf(keyring.KindTPM)
}

// wantedKey reads what a program wants of a key pair.
func wantedKey(m mechanism, public, private []p11rpc.Attribute) (keyring.CreateRequest, error) {
	var r keyring.CreateRequest
	pub, err := newTemplate(public)
	if err != nil {
		return r, err
	}
	priv, err := newTemplate(private)
	if err != nil {
		return r, err
	}
	if m.scheme == schemeMakeEC {
		r.Algorithm, err = wantedCurve(pub)
		r.Derive = priv.flag(p11rpc.AttrDerive, false)
	} else {
		r.Algorithm, err = wantedModulus(pub)
		if err == nil {
			err = priv.want(map[p11rpc.AttributeType]bool{p11rpc.AttrDerive: false})
		}
	}
	if err != nil {
		return r, err
	}
	// What the TPM does not do, or does not let be otherwise.
	err = priv.want(map[p11rpc.AttributeType]bool{
		p11rpc.AttrToken: true, p11rpc.AttrSensitive: true, p11rpc.AttrExtractable: false,
		p11rpc.AttrSignRecover: false, p11rpc.AttrWrapWithTrusted: false, p11rpc.AttrAlwaysAuthenticate: false,
	})
	if err != nil {
		return r, err
	}
	label := priv[p11rpc.AttrLabel]
	if len(label) == 0 {
		label = pub[p11rpc.AttrLabel]
	}
	r.Comment = caller.Sanitize(string(label), maxComment)
	r.Path = fileName(r.Comment)
	r.PIN = priv.flag(p11rpc.AttrPrivate, true)
	return r, nil
}

// maxComment is how many characters of a label become a key's comment.
const maxComment = 200

func wantedCurve(pub template) (string, error) {
	params, ok := pub[p11rpc.AttrECParams]
	if !ok {
		return "", fmt.Errorf("an EC key without its curve: %w", p11rpc.TemplateIncomplete)
	}
	for curve, name := range map[elliptic.Curve]string{
		elliptic.P256(): "ecdsa-p256", elliptic.P384(): "ecdsa-p384", elliptic.P521(): "ecdsa-p521",
	} {
		if oid, err := curveName(curve); err == nil && bytes.Equal(oid, params) {
			return name, nil
		}
	}
	return "", fmt.Errorf("curve %x: %w", params[:min(len(params), 20)], p11rpc.CurveNotSupported)
}

func wantedModulus(pub template) (string, error) {
	if e, ok := pub[p11rpc.AttrPublicExponent]; ok && !bytes.Equal(bytes.TrimLeft(e, "\x00"), []byte{1, 0, 1}) {
		return "", fmt.Errorf("a public exponent other than 65537: %w", p11rpc.AttributeValueInvalid)
	}
	bits := pub.number(p11rpc.AttrModulusBits, 0)
	switch bits {
	case 0:
		return "", fmt.Errorf("an RSA key without its size: %w", p11rpc.TemplateIncomplete)
	case 2048, 3072, 4096:
		return fmt.Sprintf("rsa-%d", bits), nil
	}
	return "", fmt.Errorf("an RSA key of %d bits: %w", bits, p11rpc.KeySizeRange)
}

// fileName makes a bare file name of a label: what could mean something to a
// shell or to a directory becomes a hyphen.
func fileName(label string) string {
	name := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-@+", r) {
			return r
		}
		return '-'
	}, label)
	name = strings.Trim(name, ".-")
	for len(name) > maxName { // bytes; a character is not cut
		runes := []rune(name)
		name = string(runes[:len(runes)-1])
	}
	if name == "" {
		return "pkcs11-key"
	}
	return name
}

const (
	// maxName leaves room in a file's name for what is put behind it.
	maxName = 100
	// maxNames is how many names are tried for a file, as labels are not unique.
	maxNames = 100
)

// make has the key made, under the first name that is free.
func (q *request) make(ctx context.Context, r keyring.CreateRequest) (keyring.Made, error) {
	name := r.Path
	for n := 2; ; n++ {
		made, err := q.server.maker.Create(ctx, r)
		if !errors.Is(err, fs.ErrExist) || n > maxNames {
			return made, err
		}
		r.Path = fmt.Sprintf("%s-%d", name, n)
	}
}

// handOver answers with the handles of a key that was just made.
func (q *request) handOver(id keyring.KeyID) error {
	handles := map[p11rpc.Class]uint64{}
	for _, o := range q.server.objects().list {
		if o.name.key == id {
			handles[o.name.class] = o.handle
		}
	}
	public, private := handles[p11rpc.ClassPublicKey], handles[p11rpc.ClassPrivateKey]
	if public == 0 || private == 0 {
		return fmt.Errorf("the key was made, and is in no key folder: %w", keyring.ErrUnavailable)
	}
	q.out.Ulong(public)
	q.out.Ulong(private)
	return nil
}
