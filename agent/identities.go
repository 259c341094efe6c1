package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"log/slog"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/keyring"
)

// maxComment is how many characters of a label a list shows, so that no key
// can crowd out others.
const maxComment = 255

// An identity is a key as the protocol names it.
type identity struct {
	info      keyring.KeyInfo
	blob      []byte      // the public key, RFC 4253 §6.6
	algorithm string      // of its signatures; of an RSA key, without flags
	hash      crypto.Hash // what of the data is signed; 0: the data itself
}

func newIdentity(info keyring.KeyInfo) (*identity, error) {
	if !info.Usages.Has(keyring.UsageSign) {
		return nil, fmt.Errorf("%w: the key does not sign", keyring.ErrUnsupported)
	}
	pub, err := ssh.NewPublicKey(info.Public)
	if err != nil {
		return nil, fmt.Errorf("ssh public key: %w", err)
	}
	id := &identity{info: info, blob: pub.Marshal(), algorithm: pub.Type()}
	switch k := info.Public.(type) {
	case *rsa.PublicKey:
		id.hash = crypto.SHA1
	case *ecdsa.PublicKey: // RFC 5656 §6.2.1
		switch bits := k.Curve.Params().BitSize; {
		case bits <= 256:
			id.hash = crypto.SHA256
		case bits <= 384:
			id.hash = crypto.SHA384
		default:
			id.hash = crypto.SHA512
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("%w: ssh public key of type %T", keyring.ErrUnsupported, info.Public)
	}
	return id, nil
}

// scheme returns the signature algorithm and hash that a sign request with
// these flags asks for. Both flags at once mean SHA-256, as in OpenSSH.
func (id *identity) scheme(flags uint32) (algorithm string, hash crypto.Hash) {
	if _, ok := id.info.Public.(*rsa.PublicKey); ok {
		switch {
		case flags&flagSHA256 != 0:
			return ssh.KeyAlgoRSASHA256, crypto.SHA256
		case flags&flagSHA512 != 0:
			return ssh.KeyAlgoRSASHA512, crypto.SHA512
		}
	}
	return id.algorithm, id.hash
}

// An identitySet is what the agent offers at one generation of the keys. It
// never changes.
type identitySet struct {
	generation uint64
	byBlob     map[string]*identity
	// list is the whole answer to REQUEST_IDENTITIES. Where all identities are
	// more than clients take, it is the first ones, in the order of Keys.List;
	// the others can still be signed with.
	list []byte
	cut  int // identities that list leaves out
	// skipped are the keys that the protocol has no name for.
	skipped []skippedKey
}

type skippedKey struct {
	info keyring.KeyInfo
	err  error
}

func newIdentitySet(generation uint64, infos []keyring.KeyInfo) *identitySet {
	set := &identitySet{generation: generation, byBlob: make(map[string]*identity, len(infos))}
	b := appendUint32(newFrame(msgIdentitiesAnswer, 128*len(infos)), 0)
	listed := 0
	for _, info := range infos {
		id, err := newIdentity(info)
		if err != nil {
			set.skipped = append(set.skipped, skippedKey{info, err})
			continue
		}
		set.byBlob[string(id.blob)] = id
		comment := caller.Sanitize(info.Label, maxComment)
		size := 4 + len(id.blob) + 4 + len(comment)
		if set.cut > 0 || listed == maxIdentities || len(b)-headerSize+size > maxReply {
			// Once cut, all that follow are left out, even those that would
			// fit: which keys are offered does not depend on their sizes.
			set.cut++
			continue
		}
		b = appendString(appendString(b, id.blob), comment)
		listed++
	}
	binary.BigEndian.PutUint32(b[headerSize+1:], uint32(listed))
	set.list = endFrame(b)
	return set
}

// identities returns what the agent offers now. It is cheap as long as the
// keys stay the same.
func (s *Server) identities(ctx context.Context) *identitySet {
	// The generation is read before the keys: should they change between the
	// two, the set is made anew at the next request.
	generation := s.Keys.Generation()
	if set := s.current.Load(); set != nil && set.generation == generation {
		return set
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	if old != nil && old.generation == generation {
		return old
	}
	set := newIdentitySet(generation, s.Keys.List())
	for _, k := range set.skipped {
		s.journal.line(ctx, slog.LevelDebug, "key not offered",
			slog.String("key", k.info.Label), slog.Any("err", k.err))
	}
	if set.cut > 0 && (old == nil || old.cut == 0) {
		s.journal.line(ctx, slog.LevelWarn, "more keys than ssh clients take: the last ones are not listed",
			slog.Int("listed", len(set.byBlob)-set.cut), slog.Int("left_out", set.cut))
	}
	s.current.Store(set)
	return set
}
