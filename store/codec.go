package store

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// Everything in the database is written with these few rules: numbers are eight
// bytes, the high byte first; text and bytes have their length as four bytes
// before them. There is one way to write a value, and a reader refuses all
// others, so that whatever decodes encodes to the same bytes again.

// errMalformed is what decoding says; its callers say of what.
var errMalformed = errors.New("malformed")

func putUint(b []byte, n uint64) []byte { return binary.BigEndian.AppendUint64(b, n) }

func putBytes[T string | []byte](b []byte, s T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// A reader takes values off the front of b. After the first error everything
// that it returns is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || n > len(r.b) {
		r.err = errMalformed
		return nil
	}
	head := r.b[:n:n]
	r.b = r.b[n:]
	return head
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// bytes returns a piece of the input, not a copy.
func (r *reader) bytes() []byte {
	n := r.uint32()
	if uint64(n) > uint64(len(r.b)) { // before the conversion, which may overflow
		r.err = errMalformed
		return nil
	}
	return r.take(int(n))
}

func (r *reader) text() string { return string(r.bytes()) }

func (r *reader) array(to []byte) { copy(to, r.take(len(to))) }

// end is the error so far, or that there is something left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = errMalformed
	}
	return r.err
}

// count reads how many things of at least size bytes follow; no more can than
// there are bytes, so that a number alone cannot ask for memory.
func (r *reader) count(size int) int {
	n := r.uint32()
	if r.err == nil && uint64(n)*uint64(size) > uint64(len(r.b)) {
		r.err = errMalformed
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

// An info is what an item says of itself: all but its secret. Times are
// nanoseconds since 1970.
type info struct {
	label       string
	contentType string
	created     int64
	modified    int64
	attributes  map[string]string
}

func (i *info) encode() []byte {
	size := 4*3 + 16 + len(i.label) + len(i.contentType)
	for name, value := range i.attributes {
		size += 8 + len(name) + len(value)
	}
	b := make([]byte, 0, padded(size))
	b = putBytes(b, i.label)
	b = putBytes(b, i.contentType)
	b = putUint(b, uint64(i.created))
	b = putUint(b, uint64(i.modified))
	return putAttributes(b, i.attributes)
}

func putAttributes(b []byte, attributes map[string]string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(attributes)))
	for _, name := range slices.Sorted(maps.Keys(attributes)) {
		b = putBytes(b, name)
		b = putBytes(b, attributes[name])
	}
	return b
}

func decodeInfo(b []byte) (*info, error) {
	r := &reader{b: b}
	i := &info{label: r.text(), contentType: r.text(), created: int64(r.uint()), modified: int64(r.uint())}
	i.attributes = r.attributes()
	if err := r.end(); err != nil {
		return nil, err
	}
	return i, nil
}

func (r *reader) attributes() map[string]string {
	n := r.count(8)
	attributes := make(map[string]string, n)
	last := ""
	for k := range n {
		name := r.text()
		if k > 0 && name <= last {
			r.err = errMalformed
		}
		attributes[name], last = r.text(), name
	}
	return attributes
}

// bucket is what sizes are rounded up to, so that the length of a box says
// little of what is in it.
const bucket = 64

// padded returns how long n bytes are with their length before them and zeros
// behind.
func padded(n int) int { return (4 + n + bucket - 1) / bucket * bucket }

// pad writes plain into to, which has padded(len(plain)) zero bytes.
func pad(to, plain []byte) {
	binary.BigEndian.PutUint32(to, uint32(len(plain)))
	copy(to[4:], plain)
}

// unpad returns what was padded, a piece of b.
func unpad(b []byte) ([]byte, error) {
	r := &reader{b: b}
	plain := r.bytes()
	if r.err != nil || len(b) != padded(len(plain)) {
		return nil, errMalformed
	}
	for _, rest := range r.b {
		if rest != 0 {
			return nil, errMalformed
		}
	}
	return plain, nil
}

// A state is what a collection is besides its items. It is never changed once it
// is in use: writers make another.
type state struct {
	label    string
	created  int64
	modified int64
	count    uint64 // items
	next     uint64 // number of the next item
	nextSlot uint64
	revision uint64 // of the last change
	records  sum    // over all records, under the collection key
	outer    sum    // the same under the index key, for while it is locked
	index    sum    // over the index, under the index key
	slots    []slotTag
}

// A slotTag says which slot there is and what its record is, so that one that is
// damaged, or was put back, is told from a wrong passphrase.
type slotTag struct {
	id  uint64
	tag [checksumSize]byte
}

func (s *state) encode() []byte {
	b := putBytes(nil, s.label)
	for _, n := range []uint64{uint64(s.created), uint64(s.modified), s.count, s.next, s.nextSlot, s.revision} {
		b = putUint(b, n)
	}
	b = append(b, s.records[:]...)
	b = append(b, s.outer[:]...)
	b = append(b, s.index[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(s.slots)))
	for _, l := range s.slots {
		b = append(putUint(b, l.id), l.tag[:]...)
	}
	return b
}

func (r *reader) state() *state {
	s := &state{
		label: r.text(), created: int64(r.uint()), modified: int64(r.uint()),
		count: r.uint(), next: r.uint(), nextSlot: r.uint(), revision: r.uint(),
	}
	r.array(s.records[:])
	r.array(s.outer[:])
	r.array(s.index[:])
	for range r.count(8 + checksumSize) {
		l := slotTag{id: r.uint()}
		r.array(l.tag[:])
		s.slots = append(s.slots, l)
	}
	return s
}

// A directory names the collections, the oldest first, and the aliases. It is
// not secret, and has a checksum.
type directory struct {
	collections []string
	aliases     map[string]string
}

func (d *directory) clone() *directory {
	return &directory{slices.Clone(d.collections), maps.Clone(d.aliases)}
}

func (d *directory) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(d.collections)))
	for _, id := range d.collections {
		b = putBytes(b, id)
	}
	b = putAttributes(b, d.aliases)
	return append(b, checksum(b)...)
}

func decodeDirectory(b []byte) (*directory, error) {
	n := len(b) - checksumSize
	if n < 0 || string(checksum(b[:n])) != string(b[n:]) {
		return nil, errMalformed
	}
	r := &reader{b: b[:n]}
	d := &directory{}
	for range r.count(4) {
		d.collections = append(d.collections, r.text())
	}
	d.aliases = r.attributes()
	return d, r.end()
}
