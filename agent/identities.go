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
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/keyring"
)

// maxComment is how many characters of a label a list shows, so that no key
// can crowd out others.
const maxComment = 255

// An identity is a key as the protocol names it: by its public key, or by a
// certificate of that. It does not change.
type identity struct {
	info         keyring.KeyInfo // zero of a security key
	blob         []byte          // the public key or certificate, RFC 4253 §6.6
	algorithm    string          // of its signatures; of an RSA key, without flags
	hash         crypto.Hash     // what of the data is signed; 0: the data itself
	added        *added          // nil: it is in a file
	destinations []destination   // what it may be used for; nil: anything
}

// label is what the user calls it.
func (id *identity) label() string {
	if id.added != nil {
		return id.added.label()
	}
	return id.info.Label
}

// newIdentity is the plain identity of a key.
func newIdentity(info keyring.KeyInfo) (*identity, error) {
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

// as is the identity under another name of the same key, its certificate.
func (id *identity) as(blob []byte) *identity {
	other := *id
	other.blob = blob
	return &other
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

// signsAs reports whether a login by this identity may name that algorithm.
func (id *identity) signsAs(algorithm string) bool {
	d := decoder{rest: id.blob}
	kind := string(d.string())
	switch algorithm {
	case ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512:
		return kind == ssh.KeyAlgoRSA
	case ssh.CertAlgoRSASHA256v01, ssh.CertAlgoRSASHA512v01:
		return kind == ssh.CertAlgoRSAv01
	}
	return kind == algorithm
}

// An identitySet is what the agent offers at one moment. It never changes.
type identitySet struct {
	version version
	// from and stays say when it is no longer true by the passing of time alone;
	// stays 0: never.
	from  time.Time
	stays time.Duration

	all    []*identity
	byBlob map[string]*identity
	// list is the whole answer to REQUEST_IDENTITIES for whoever may see all.
	list        []byte
	cut         int  // identities that list leaves out
	constrained bool // some are not for everybody to see
	// asking are the keys that may ask something when they are used.
	asking []keyring.KeyInfo
	// skipped are the keys that the protocol has no name for.
	skipped []skippedKey
}

// A version says which state of everything a set was made from.
type version struct{ keys, added, certificates uint64 }

type skippedKey struct {
	info keyring.KeyInfo
	err  error
}

// changesAfter notes that the set is no longer true at a time to come.
func (set *identitySet) changesAfter(d time.Duration) {
	if d = max(d, 1); set.stays == 0 || d < set.stays {
		set.stays = d
	}
}

func (set *identitySet) put(id *identity) {
	set.all = append(set.all, id)
	set.byBlob[string(id.blob)] = id
	set.constrained = set.constrained || id.destinations != nil
}

// listing is the answer to REQUEST_IDENTITIES with those that may be seen, nil:
// all. Where they are more than clients take, it is the first ones; the others
// can still be signed with.
func (set *identitySet) listing(visible func(*identity) bool) (reply []byte, cut int) {
	b := appendUint32(newFrame(msgIdentitiesAnswer, 128*len(set.all)), 0)
	listed := 0
	for _, id := range set.all {
		if visible != nil && !visible(id) {
			continue
		}
		comment := id.info.Label
		if id.added != nil {
			comment = id.added.comment
		}
		comment = caller.Sanitize(comment, maxComment)
		size := 4 + len(id.blob) + 4 + len(comment)
		if cut > 0 || listed == maxIdentities || len(b)-headerSize+size > maxReply {
			// Once cut, all that follow are left out, even those that would
			// fit: which keys are offered does not depend on their sizes.
			cut++
			continue
		}
		b = appendString(appendString(b, id.blob), comment)
		listed++
	}
	binary.BigEndian.PutUint32(b[headerSize+1:], uint32(listed))
	return endFrame(b), cut
}

// version is which state of everything there is now.
func (s *Server) version() version {
	v := version{keys: s.Keys.Generation(), added: s.added.generation.Load()}
	if s.Certificates != nil {
		v.certificates = s.Certificates.generation()
	}
	return v
}

// identities returns what the agent offers now. It is cheap as long as that
// stays the same.
func (s *Server) identities(ctx context.Context) *identitySet {
	// The version is read before what it stands for: should that change between
	// the two, the set is made anew at the next request.
	now := s.version()
	if set := s.current.Load(); set.isNow(now) {
		return set
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now = s.version()
	old := s.current.Load()
	if old.isNow(now) {
		return old
	}
	set := s.gather(now)
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

func (set *identitySet) isNow(v version) bool {
	return set != nil && set.version == v && (set.stays == 0 || age(set.from, time.Now()) < set.stays)
}

// gather makes the set: the keys in files, each followed by its certificates,
// and then the added ones in the order in which they came.
func (s *Server) gather(v version) *identitySet {
	set := &identitySet{version: v, from: time.Now()}
	t := s.added
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked(set.from)
	infos := s.Keys.List()
	t.tidyLocked(infos)
	set.byBlob = make(map[string]*identity, len(infos)+len(t.list))
	isAdded := make(map[string]bool, len(t.list))
	constrained := map[keyring.KeyID]bool{}
	for _, a := range t.list {
		isAdded[string(a.blob)] = true
		if a.any() && a.sk == nil {
			constrained[a.key] = true
		}
	}
	plain := make(map[keyring.KeyID]*identity, len(infos))
	for _, info := range infos {
		id, err := newIdentity(info)
		if err != nil {
			set.skipped = append(set.skipped, skippedKey{info, err})
			continue
		}
		plain[info.ID] = id
		if info.Confirm || info.NeedsAuth {
			set.asking = append(set.asking, info)
		}
		if info.Revision == 0 || constrained[info.ID] {
			continue
		}
		if !isAdded[string(id.blob)] && !t.isHiddenLocked(info, id.blob) {
			set.put(id)
		}
		if s.Certificates == nil {
			continue
		}
		for _, c := range s.Certificates.of(info.ID) {
			ok, stays := c.validAt(set.from)
			if stays > 0 {
				set.changesAfter(stays)
			}
			if ok && !isAdded[string(c.blob)] && !t.isHiddenLocked(info, c.blob) {
				set.put(id.as(c.blob))
			}
		}
	}
	for _, a := range t.list {
		if a.limited {
			set.changesAfter(a.lifetime - age(a.from, set.from))
		}
		id := &identity{blob: a.blob}
		if a.sk == nil {
			key, ok := plain[a.key]
			if !ok {
				continue // on its way to or from the core
			}
			id = key.as(a.blob)
		}
		id.added, id.destinations = a, a.destinations
		set.put(id)
	}
	set.list, set.cut = set.listing(nil)
	return set
}

// list answers REQUEST_IDENTITIES. What follows it is ignored, as OpenSSH does.
func (s *session) list() []byte {
	set := s.server.identities(s.ctx)
	s.server.Keys.Expect(set.asking)
	reply := set.list
	if set.constrained && s.bound.attempted {
		reply, _ = set.listing(func(id *identity) bool { return s.bound.permitted(id.destinations, nil) })
	}
	return s.upstream.appendList(s.ctx, reply, set)
}
