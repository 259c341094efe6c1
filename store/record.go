package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/keyringd/keyringd/internal/secret"
)

// format is the version of everything that is written, and bound into all that
// is encrypted.
const format = 1

// markOf is how a format stands in the database: one that is newer than ours
// must not be taken from a damaged byte.
func markOf(format byte) []byte { return []byte{format, ^format} }

// formatOf returns the format of a mark, and 0 of a damaged one.
func formatOf(mark []byte) byte {
	if len(mark) != 2 || mark[0] != ^mark[1] {
		return 0
	}
	return mark[0]
}

const (
	keySize      = 32
	nonceSize    = chacha20poly1305.NonceSizeX
	tagSize      = chacha20poly1305.Overhead
	checksumSize = 16
)

func checksum(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:checksumSize]
}

// newKey returns a random key.
func newKey() secret.Bytes {
	k := secret.New(keySize)
	k.Use(func(b []byte) { _, _ = rand.Read(b) }) // never fails: crypto/rand
	return k
}

// derive calls use with a subkey, which is gone afterwards.
func derive(key secret.Bytes, purpose string, use func([]byte)) {
	key.Use(func(k []byte) {
		// It fails for lengths beyond any of ours only, and for short keys in FIPS
		// mode, which these are not.
		sub, err := hkdf.Expand(sha256.New, k, "keyringd store "+purpose, keySize)
		if err != nil || len(k) == 0 {
			sub = make([]byte, keySize)
			_, _ = rand.Read(sub) // opens nothing: a wiped key has no subkeys
		}
		use(sub)
		clear(sub)
	})
}

func newAEAD(key secret.Bytes, purpose string) (a cipher.AEAD) {
	derive(key, purpose, func(k []byte) { a, _ = chacha20poly1305.NewX(k) }) // fails for other lengths only
	return a
}

func newSummer(key secret.Bytes, purpose string) (s summer) {
	derive(key, purpose, func(k []byte) { s.block, _ = aes.NewCipher(k) }) // fails for other lengths only
	return s
}

// innerKeys are what an unlocked collection has. They are used by those who
// hold them even while the collection is being locked; ck is wiped then.
type innerKeys struct {
	ck   secret.Bytes // the collection key
	item cipher.AEAD
	meta cipher.AEAD
	sum  summer
}

func newInnerKeys(ck secret.Bytes) *innerKeys {
	return &innerKeys{ck: ck, item: newAEAD(ck, "items"), meta: newAEAD(ck, "meta"), sum: newSummer(ck, "records")}
}

// outerKeys are what a collection has whether or not it is locked.
type outerKeys struct {
	xk     secret.Bytes // the collection's index key
	attr   secret.Bytes // for the hashes of attributes
	header cipher.AEAD
	sum    summer // over records
	index  summer
}

func newOuterKeys(xk secret.Bytes) *outerKeys {
	o := &outerKeys{xk: xk, header: newAEAD(xk, "header"), sum: newSummer(xk, "records"), index: newSummer(xk, "index")}
	derive(xk, "attributes", func(k []byte) { o.attr = secret.Copy(k) })
	return o
}

func (o *outerKeys) wipe() {
	if o != nil {
		o.xk.Wipe()
		o.attr.Wipe()
	}
}

// seal returns nonce and box. plain is padded by its caller where its length
// says something.
func seal(a cipher.AEAD, plain, bound []byte) []byte {
	b := make([]byte, nonceSize, nonceSize+len(plain)+tagSize)
	_, _ = rand.Read(b)
	return a.Seal(b, b, plain, bound)
}

// unseal appends what is in a box to dst, which may be nil.
func unseal(a cipher.AEAD, dst, b, bound []byte) ([]byte, error) {
	if len(b) < nonceSize+tagSize {
		return nil, errMalformed
	}
	return a.Open(dst, b[:nonceSize], b[nonceSize:], bound)
}

// bound returns what a box is bound to: what it is, and of what.
func bound(what, collection string, numbers ...uint64) []byte {
	b := putBytes(append(make([]byte, 0, 64), format), what)
	b = putBytes(b, collection)
	for _, n := range numbers {
		b = putUint(b, n)
	}
	return b
}

// The two boxes of a record.
const (
	partInfo   = "item info"
	partSecret = "item secret"
)

// recordHead is a record's version, its revision and the length of the first
// box.
const recordHead = 1 + 8 + 4

// A record is an item as it lies on disk. Its slices are pieces of the page.
type record struct {
	revision     uint64
	info, secret []byte // nonce and box
}

// parseRecord only takes it apart; nothing of it is to be believed yet.
func parseRecord(b []byte) (record, error) {
	r := &reader{b: b}
	version := r.byte()
	rec := record{revision: r.uint()}
	rec.info = r.bytes()
	rec.secret = r.b
	if r.err != nil || version != format || len(rec.info) < nonceSize+tagSize || len(rec.secret) < nonceSize+tagSize {
		return record{}, errMalformed
	}
	return rec, nil
}

// sealRecord encrypts an item; plain is borrowed.
func (k *innerKeys) sealRecord(collection string, id, revision uint64, i *info, plain secret.Bytes) []byte {
	said := i.encode()
	first := make([]byte, padded(len(said)))
	pad(first, said)
	box := seal(k.item, first, bound(partInfo, collection, id, revision))
	clear(said)
	clear(first)

	n := padded(plain.Len())
	b := make([]byte, 0, recordHead+len(box)+nonceSize+n+tagSize)
	b = putUint(append(b, format), revision)
	b = putBytes(b, box)
	second := secret.New(n)
	second.Use(func(to []byte) {
		plain.Use(func(p []byte) { pad(to, p) })
		b = append(b, seal(k.item, to, bound(partSecret, collection, id, revision))...)
	})
	second.Wipe()
	return b
}

// openInfo decrypts what an item says of itself.
func (k *innerKeys) openInfo(collection string, id uint64, rec record) (*info, error) {
	plain, err := unseal(k.item, nil, rec.info, bound(partInfo, collection, id, rec.revision))
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	said, err := unpad(plain)
	if err != nil {
		return nil, err
	}
	return decodeInfo(said)
}

// openSecret decrypts an item's secret, the caller's to Wipe.
func (k *innerKeys) openSecret(collection string, id uint64, rec record) (secret.Bytes, error) {
	whole := secret.New(len(rec.secret) - nonceSize - tagSize)
	defer whole.Wipe()
	var plain secret.Bytes
	var err error
	whole.Use(func(to []byte) {
		var p []byte
		if p, err = unseal(k.item, to[:0], rec.secret, bound(partSecret, collection, id, rec.revision)); err != nil {
			return
		}
		if p, err = unpad(p); err == nil {
			plain = secret.Copy(p)
		}
	})
	return plain, err
}

// authentic reports whether all of a record is what was written under that id.
func (k *innerKeys) authentic(collection string, id uint64, rec record) (*info, bool) {
	i, err := k.openInfo(collection, id, rec)
	if err != nil {
		return nil, false
	}
	s, err := k.openSecret(collection, id, rec)
	s.Wipe()
	return i, err == nil
}

// A sum is the exclusive or of a keyed hash of each thing in a set. Who does not
// know the key can neither see what a thing adds to it, nor find another set
// with the same sum.
type sum [aes.BlockSize]byte

// add adds a thing, or takes it away if it is in it.
func (s *sum) add(other sum) {
	// As two words, which is faster than a call.
	binary.NativeEndian.PutUint64(s[:8], binary.NativeEndian.Uint64(s[:8])^binary.NativeEndian.Uint64(other[:8]))
	binary.NativeEndian.PutUint64(s[8:], binary.NativeEndian.Uint64(s[8:])^binary.NativeEndian.Uint64(other[8:]))
}

// A summer hashes things of a fixed number of blocks: CBC-MAC with AES-256,
// which is a good one for messages of one length, and takes 20 ns a block.
type summer struct{ block cipher.Block }

// record hashes where a record lies, and the tags of its boxes: they stand for
// all the rest of it.
func (s summer) record(id uint64, rec record) sum {
	a := adder{summer: s}
	a.record(id, rec)
	return a.total
}

// entry hashes an entry of the index.
func (s summer) entry(key []byte) sum {
	a := adder{summer: s}
	a.entry(key)
	return a.total
}

// An adder adds up the hashes of many things, in memory of its own: there are
// tens of thousands when a store is opened.
type adder struct {
	summer
	total, h sum
}

func (a *adder) record(id uint64, rec record) {
	binary.BigEndian.PutUint64(a.h[:8], id)
	binary.BigEndian.PutUint64(a.h[8:], rec.revision)
	a.block.Encrypt(a.h[:], a.h[:])
	a.h.add(sum(rec.info[len(rec.info)-tagSize:]))
	a.block.Encrypt(a.h[:], a.h[:])
	a.h.add(sum(rec.secret[len(rec.secret)-tagSize:]))
	a.block.Encrypt(a.h[:], a.h[:])
	a.total.add(a.h)
}

func (a *adder) entry(key []byte) {
	copy(a.h[:], key[:hashSize])
	a.block.Encrypt(a.h[:], a.h[:])
	var id sum
	copy(id[:], key[hashSize:])
	a.h.add(id)
	a.block.Encrypt(a.h[:], a.h[:])
	a.total.add(a.h)
}
