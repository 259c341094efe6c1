package dbus

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha1" // ssh-rsa, for those who ask for it by name
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/asn1"
	"fmt"
	"math/big"
	"slices"

	godbus "github.com/godbus/dbus/v5"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/keyring"
)

// maxReason is how many characters of a program's reason are shown.
const maxReason = 80

// A family is the kind of public key that a scheme is for.
type family int

const (
	familyRSA family = iota
	familyECDSA
	familyEd25519
)

func familyOf(pub crypto.PublicKey) (family, bool) {
	switch pub.(type) {
	case *rsa.PublicKey:
		return familyRSA, true
	case *ecdsa.PublicKey:
		return familyECDSA, true
	case ed25519.PublicKey:
		return familyEd25519, true
	}
	return 0, false
}

// The forms a signature comes in.
const (
	formSSH = "ssh"
	formRaw = "raw"
	formDER = "der"
)

// A scheme is a way to sign, by its standard name.
type scheme struct {
	name   string
	family family
	hash   crypto.Hash // 0: the data itself is signed
	pss    bool
	curve  int    // bits of the only curve it is for; 0: any
	form   string // where the caller asks for none
	ssh    string // its name in SSH; "": none
}

// schemes has those with SSH's names first, so that a key's usual one is the
// first of its family that is not ssh-rsa.
var schemes = []scheme{
	{name: "rsa-sha2-256", family: familyRSA, hash: crypto.SHA256, form: formSSH, ssh: "rsa-sha2-256"},
	{name: "rsa-sha2-512", family: familyRSA, hash: crypto.SHA512, form: formSSH, ssh: "rsa-sha2-512"},
	{name: "ssh-rsa", family: familyRSA, hash: crypto.SHA1, form: formSSH, ssh: "ssh-rsa"},
	{name: "ecdsa-sha2-nistp256", family: familyECDSA, hash: crypto.SHA256, curve: 256, form: formSSH, ssh: "ecdsa-sha2-nistp256"},
	{name: "ecdsa-sha2-nistp384", family: familyECDSA, hash: crypto.SHA384, curve: 384, form: formSSH, ssh: "ecdsa-sha2-nistp384"},
	{name: "ecdsa-sha2-nistp521", family: familyECDSA, hash: crypto.SHA512, curve: 521, form: formSSH, ssh: "ecdsa-sha2-nistp521"},
	{name: "ssh-ed25519", family: familyEd25519, form: formSSH, ssh: "ssh-ed25519"},
	{name: "RSA-SHA256", family: familyRSA, hash: crypto.SHA256, form: formRaw, ssh: "rsa-sha2-256"},
	{name: "RSA-SHA384", family: familyRSA, hash: crypto.SHA384, form: formRaw},
	{name: "RSA-SHA512", family: familyRSA, hash: crypto.SHA512, form: formRaw, ssh: "rsa-sha2-512"},
	{name: "RSA-PSS-SHA256", family: familyRSA, hash: crypto.SHA256, pss: true, form: formRaw},
	{name: "RSA-PSS-SHA384", family: familyRSA, hash: crypto.SHA384, pss: true, form: formRaw},
	{name: "RSA-PSS-SHA512", family: familyRSA, hash: crypto.SHA512, pss: true, form: formRaw},
	{name: "ECDSA-SHA256", family: familyECDSA, hash: crypto.SHA256, form: formDER, ssh: "ecdsa-sha2-nistp256"},
	{name: "ECDSA-SHA384", family: familyECDSA, hash: crypto.SHA384, form: formDER, ssh: "ecdsa-sha2-nistp384"},
	{name: "ECDSA-SHA512", family: familyECDSA, hash: crypto.SHA512, form: formDER, ssh: "ecdsa-sha2-nistp521"},
	{name: "Ed25519", family: familyEd25519, form: formRaw, ssh: "ssh-ed25519"},
}

// fits reports whether a key can sign so.
func (s scheme) fits(pub crypto.PublicKey) bool {
	f, ok := familyOf(pub)
	if k, is := pub.(*ecdsa.PublicKey); is && s.curve != 0 {
		ok = k.Curve.Params().BitSize == s.curve
	}
	return ok && f == s.family
}

// schemeFor returns the scheme of that name, if the key can sign so.
func schemeFor(name string, pub crypto.PublicKey) (scheme, error) {
	i := slices.IndexFunc(schemes, func(s scheme) bool { return s.name == name })
	if i < 0 {
		return scheme{}, fmt.Errorf("%w: signature scheme %.64q", keyring.ErrUnsupported, name)
	}
	if !schemes[i].fits(pub) {
		return scheme{}, fmt.Errorf("%w: an %s key does not sign %s", keyring.ErrUnsupported, algorithm(pub), name)
	}
	return schemes[i], nil
}

// usualScheme returns how a key signs where nobody says how.
func usualScheme(pub crypto.PublicKey) (scheme, error) {
	for _, s := range schemes {
		if s.fits(pub) {
			return s, nil
		}
	}
	return scheme{}, fmt.Errorf("%w: an %s key does not sign", keyring.ErrUnsupported, algorithm(pub))
}

// A wish is what the options of a Sign say.
type wish struct {
	digest bool
	form   string
	salt   int // rsa.PSSOptions.SaltLength
	reason string
}

// wishOf reads the options. One that is not known is an error: who asks for
// something must not get something else.
func wishOf(s scheme, options map[string]godbus.Variant) (wish, error) {
	w := wish{form: s.form, salt: rsa.PSSSaltLengthEqualsHash}
	for name, v := range options {
		ok := false
		switch name {
		case "digest":
			w.digest, ok = v.Value().(bool)
		case "format":
			w.form, ok = v.Value().(string)
		case "salt-length":
			w.salt, ok = integer(v.Value())
			// What Go means by 0 is not a salt of no bytes.
			if ok && (!s.pss || w.salt <= 0 || w.salt > 512) {
				return w, fmt.Errorf("%w: %s with a salt of %d bytes", keyring.ErrUnsupported, s.name, w.salt)
			}
		case "reason":
			w.reason, ok = v.Value().(string)
		default:
			return w, badArgument("option %.64q is not known", name)
		}
		if !ok {
			return w, badArgument("option %s is of type %s", name, v.Signature())
		}
	}
	if w.digest && s.hash == 0 {
		return w, fmt.Errorf("%w: %s signs the data itself, not a digest", keyring.ErrUnsupported, s.name)
	}
	return w, nil
}

func integer(v any) (int, bool) {
	switch n := v.(type) {
	case byte:
		return int(n), true
	case int16:
		return int(n), true
	case uint16:
		return int(n), true
	case int32:
		return int(n), true
	case uint32:
		return int(min(n, 1<<30)), true
	case int64:
		return int(max(-1, min(n, 1<<30))), true
	case uint64:
		return int(min(n, 1<<30)), true
	}
	return 0, false
}

// claim is the reason as the user is told: whose words it is, and what is fit to
// be shown of them.
func (w wish) claim() string {
	if s := caller.Sanitize(w.reason, maxReason); s != "" {
		return "the program says: “" + s + "”"
	}
	return ""
}

// request makes a SignRequest of data, without its caller and key.
func (s scheme) request(data []byte, w wish) (keyring.SignRequest, error) {
	r := keyring.SignRequest{Digest: data, Opts: s.hash, Reason: w.claim()}
	if s.hash != 0 && !w.digest {
		h := s.hash.New()
		h.Write(data)
		r.Digest = h.Sum(nil)
	}
	if s.hash != 0 && len(r.Digest) != s.hash.Size() {
		return r, badArgument("a digest of %d bytes, where %s has %d", len(r.Digest), s.name, s.hash.Size())
	}
	if s.pss {
		r.Opts = &rsa.PSSOptions{SaltLength: w.salt, Hash: s.hash}
	}
	return r, nil
}

// check says before anybody is asked whether the signature can have that form.
func (s scheme) check(form string, pub crypto.PublicKey) error {
	ok := false
	switch form {
	case formSSH:
		ok = s.ssh != ""
		if k, is := pub.(*ecdsa.PublicKey); is {
			ok = s.ssh == "ecdsa-sha2-"+sshCurve(k)
		}
	case formRaw:
		ok = true
	case formDER:
		ok = s.family == familyECDSA
	default:
		return badArgument("format %.64q is none of ssh, raw and der", form)
	}
	if !ok {
		return fmt.Errorf("%w: %s by an %s key has no form %q", keyring.ErrUnsupported, s.name, algorithm(pub), form)
	}
	return nil
}

// encode gives what a crypto.Signer returned the form that was asked for.
func (s scheme) encode(sig []byte, form string, pub crypto.PublicKey) ([]byte, error) {
	value, err := plain(sig, form, pub)
	if err != nil || form != formSSH {
		return value, err
	}
	return appendString(appendString(nil, s.ssh), value), nil
}

// plain is the signature without SSH's name for it: RFC 5656 §3.1.2, RFC 8332
// §3 and RFC 8709 §6, and for ECDSA the forms of RFC 3279 §2.2.3 and of IEEE
// P1363.
func plain(sig []byte, form string, pub crypto.PublicKey) ([]byte, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		var rs struct{ R, S *big.Int }
		rest, err := asn1.Unmarshal(sig, &rs)
		n := k.Curve.Params().N
		if err != nil || len(rest) > 0 || rs.R.Sign() <= 0 || rs.S.Sign() <= 0 || rs.R.Cmp(n) >= 0 || rs.S.Cmp(n) >= 0 {
			return nil, errSignature
		}
		switch form {
		case formDER:
			return sig, nil
		case formSSH:
			return appendMpint(appendMpint(nil, rs.R), rs.S), nil
		}
		size := (n.BitLen() + 7) / 8
		raw := make([]byte, 2*size)
		rs.R.FillBytes(raw[:size])
		rs.S.FillBytes(raw[size:])
		return raw, nil
	case *rsa.PublicKey:
		if len(sig) > k.Size() {
			return nil, errSignature
		}
		raw := make([]byte, k.Size()) // shorter ones get their leading zeros back
		copy(raw[k.Size()-len(sig):], sig)
		return raw, nil
	case ed25519.PublicKey:
		if len(sig) != ed25519.SignatureSize {
			return nil, errSignature
		}
		return sig, nil
	}
	return nil, errSignature
}
