package store

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// The index has an entry of a hash and an item's number for each attribute of
// each item, and one for all of its attributes together. The items with one
// attribute lie side by side, in the order in which they were made.
const (
	hashSize  = 16
	entrySize = hashSize + 8
)

type hash [hashSize]byte

// attribute hashes a name and its value.
func (o *outerKeys) attribute(name, value string) hash {
	return o.hash('a', putBytes(putBytes(nil, name), value))
}

// exactly hashes a set of attributes, for finding items that have no others.
func (o *outerKeys) exactly(attributes map[string]string) hash {
	return o.hash('e', putAttributes(nil, attributes))
}

func (o *outerKeys) hash(kind byte, of []byte) (h hash) {
	o.attr.Use(func(k []byte) {
		m := hmac.New(sha256.New, k)
		_, _ = m.Write([]byte{kind})
		_, _ = m.Write(of)
		copy(h[:], m.Sum(nil))
	})
	return h
}

// entries returns the index entries of an item.
func (o *outerKeys) entries(id uint64, attributes map[string]string) [][]byte {
	list := make([][]byte, 0, len(attributes)+1)
	for name, value := range attributes {
		list = append(list, entry(o.attribute(name, value), id))
	}
	list = append(list, entry(o.exactly(attributes), id))
	slices.SortFunc(list, bytes.Compare)
	return list
}

func entry(h hash, id uint64) []byte { return putUint(append(make([]byte, 0, entrySize), h[:]...), id) }

// A posting is where one goes through the items that have one attribute.
type posting struct {
	cursor *bolt.Cursor
	of     hash
}

// from returns the first item from id on.
func (p posting) from(id uint64) (uint64, bool) {
	key, _ := p.cursor.Seek(entry(p.of, id))
	if len(key) != entrySize || !bytes.Equal(key[:hashSize], p.of[:]) {
		return 0, false
	}
	return binary.BigEndian.Uint64(key[hashSize:]), true
}

// last returns the newest item.
func (p posting) last() (uint64, bool) {
	key, _ := p.cursor.Seek(entry(p.of, ^uint64(0)))
	if len(key) == 0 {
		key, _ = p.cursor.Last()
	} else if !bytes.Equal(key, entry(p.of, ^uint64(0))) {
		key, _ = p.cursor.Prev()
	}
	if len(key) != entrySize || !bytes.Equal(key[:hashSize], p.of[:]) {
		return 0, false
	}
	return binary.BigEndian.Uint64(key[hashSize:]), true
}

// find returns the items that have all of attributes, of which there is at least
// one. Each list is entered where the others have come to, so that it takes as
// many steps as the rarest attribute has items, and not as the commonest.
func (o *outerKeys) find(index *bolt.Bucket, attributes map[string]string) []uint64 {
	var lists []posting
	for name, value := range attributes {
		lists = append(lists, posting{index.Cursor(), o.attribute(name, value)})
	}
	var found []uint64
	at, agreed := uint64(0), 0
	for i := 0; ; i = (i + 1) % len(lists) {
		id, ok := lists[i].from(at)
		if !ok {
			return found
		}
		if id != at {
			at, agreed = id, 0
		}
		if agreed++; agreed < len(lists) {
			continue
		}
		found = append(found, at)
		if at++; at == 0 {
			return found
		}
		agreed = 0
	}
}
