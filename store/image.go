package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// An image is a database file as it lies on disk, read page by page without the
// engine. The engine believes what it reads: on a damaged file it panics, some of
// it in goroutines of its own, or goes past the end of its memory. An image
// believes nothing. It is how a file is checked before the engine gets it, and
// how what is left of a damaged one is read.
//
// The format is bbolt's version 2, in the byte order of the machine: two meta
// pages, of which the one with the higher transaction counts if its checksum is
// right; behind them pages of a B+tree. A page has a head of 16 bytes (number,
// kind, count, overflow) and elements of 16 bytes that say where its keys and
// values are.
type image struct {
	file io.ReaderAt
	size int64
	meta
	// half is that the other head is damaged. The engine would take this one, and
	// with it be back where it was before the last change, without a word.
	half bool
}

type meta struct {
	pageSize int
	root     uint64 // page of the root bucket
	freelist uint64
	high     uint64 // number of pages in use
	txid     uint64
}

const (
	pageHead    = 16
	element     = 16
	metaSize    = 64
	bboltMagic  = 0xED0CDAED
	bboltFormat = 2
	minPage     = 1 << 10
	maxPage     = 64 << 10
	noFreelist  = ^uint64(0)

	pageBranch   = 1
	pageLeaf     = 2
	pageMeta     = 4
	pageFreelist = 16

	elementBucket = 1

	// maxDepth is deeper than any tree and all buckets within buckets; a damaged
	// branch may lead back to itself.
	maxDepth = 64
)

func native16(b []byte) uint64 { return uint64(binary.NativeEndian.Uint16(b)) }
func native32(b []byte) uint64 { return uint64(binary.NativeEndian.Uint32(b)) }
func native64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// parseMeta reads one meta page.
func parseMeta(page []byte) (meta, bool) {
	if len(page) < pageHead+metaSize || native16(page[8:]) != pageMeta {
		return meta{}, false
	}
	m := page[pageHead : pageHead+metaSize]
	h := fnv.New64a()
	_, _ = h.Write(m[:56])
	size := native32(m[8:])
	if native32(m) != bboltMagic || native32(m[4:]) != bboltFormat || native64(m[56:]) != h.Sum64() ||
		size < minPage || size > maxPage || size&(size-1) != 0 {
		return meta{}, false
	}
	return meta{pageSize: int(size), root: native64(m[16:]), freelist: native64(m[32:]), high: native64(m[40:]), txid: native64(m[48:])}, true
}

// metas returns the valid ones, by their place in the file.
func metas(file io.ReaderAt) (found map[int64]meta, err error) {
	found = map[int64]meta{}
	page := make([]byte, pageHead+metaSize)
	at := []int64{0}
	for size := int64(minPage); size <= maxPage; size *= 2 {
		at = append(at, size) // the first may be damaged, and only it says where the second is
	}
	for _, offset := range at {
		n, err := file.ReadAt(page, offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if m, ok := parseMeta(page[:n]); ok && native64(page) == uint64(offset)/uint64(m.pageSize) && offset%int64(m.pageSize) == 0 {
			found[offset] = m
		}
	}
	return found, nil
}

// errImage is what is wrong with an image, as opposed to with reading it.
var errImage = errors.New("the database file is damaged")

// readImage finds the newest state of a database. The file is borrowed.
func readImage(file *os.File) (*image, error) {
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	found, err := metas(file)
	if err != nil {
		return nil, err
	}
	im := &image{file: file, size: stat.Size()}
	for _, m := range found {
		if m.txid >= im.txid {
			im.meta = m
		}
	}
	if im.pageSize == 0 {
		return nil, fmt.Errorf("%w: it has no valid head", errImage)
	}
	im.half = len(found) < 2
	return im, nil
}

// page returns a page with what overflows it. It is in buffer, if that is large
// enough.
func (im *image) page(id uint64, buffer []byte) ([]byte, error) {
	if id < 2 || id >= im.high || id > uint64(im.size)/uint64(im.pageSize) {
		return nil, fmt.Errorf("%w: there is no page %d", errImage, id)
	}
	offset := int64(id) * int64(im.pageSize)
	if cap(buffer) < im.pageSize {
		buffer = make([]byte, im.pageSize)
	}
	b := buffer[:im.pageSize]
	if err := im.read(b, offset); err != nil {
		return nil, err
	}
	if native64(b) != id {
		return nil, fmt.Errorf("%w: page %d says that it is %d", errImage, id, native64(b))
	}
	if overflow := native32(b[12:]); overflow > 0 {
		if id+overflow >= im.high || offset+int64(overflow+1)*int64(im.pageSize) > im.size {
			return nil, fmt.Errorf("%w: page %d is longer than the file", errImage, id)
		}
		whole := buffer[:0]
		if size := int(overflow+1) * im.pageSize; cap(whole) >= size {
			whole = whole[:size]
		} else {
			whole = make([]byte, size)
			copy(whole, b)
		}
		return whole, im.read(whole[im.pageSize:], offset+int64(im.pageSize))
	}
	return b, nil
}

func (im *image) read(b []byte, offset int64) error {
	_, err := im.file.ReadAt(b, offset)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it ends too soon", errImage)
	}
	return err
}

// A walk goes through all that is in an image, in its order.
type walk struct {
	*image
	// each is called with the names of the buckets that it is in, and a key and
	// its value; value is nil for a bucket, which follows. They are its to keep,
	// unless the walk is passing.
	each func(path []string, key, value []byte) error
	// passing: pages are read to the same memory again and again.
	passing bool
	buffers [maxDepth + 1][]byte // by depth: those above are still in use
	// lost is called for a part that cannot be read, which is passed over; nil:
	// the first one ends the walk.
	lost func(path []string, err error)
	used func(id, overflow uint64) error // is called for each page; nil is not
}

func (w *walk) run() error { return w.tree(w.root, nil, nil, nil, maxDepth) }

func (w *walk) passOver(path []string, err error) error {
	if err != nil && w.lost != nil && errors.Is(err, errImage) {
		w.lost(path, err)
		return nil
	}
	return err
}

// tree walks a page and what is under it. Its keys are from lo on, and below hi.
func (w *walk) tree(id uint64, path []string, lo, hi []byte, depth int) error {
	var buffer []byte
	if w.passing && depth >= 0 {
		buffer = w.buffers[depth]
	}
	p, err := w.page(id, buffer)
	if w.passing && depth >= 0 {
		w.buffers[depth] = p
	}
	if err == nil && w.used != nil {
		err = w.used(id, native32(p[12:]))
	}
	if err == nil {
		err = w.inPage(p, id, path, lo, hi, depth)
	}
	return w.passOver(path, err)
}

func (w *walk) inPage(p []byte, id uint64, path []string, lo, hi []byte, depth int) error {
	if depth == 0 {
		return fmt.Errorf("%w: page %d is too deep", errImage, id)
	}
	kind, count := native16(p[8:]), int(native16(p[10:]))
	if pageHead+count*element > len(p) || (kind != pageLeaf && kind != pageBranch) || (kind == pageBranch && count == 0) {
		return fmt.Errorf("%w: page %d makes no sense", errImage, id)
	}
	last := lo
	for i := range count {
		e := p[pageHead+i*element:]
		pos, size := native32(e), native32(e[4:])
		if kind == pageLeaf {
			pos, size = native32(e[4:]), native32(e[8:])
		}
		key := piece(e, pos, size)
		if key == nil || (i > 0 && bytes.Compare(key, last) <= 0) || (i == 0 && bytes.Compare(key, lo) < 0) || (hi != nil && bytes.Compare(key, hi) >= 0) {
			if err := w.passOver(path, fmt.Errorf("%w: page %d has a key out of place", errImage, id)); err != nil {
				return err
			}
			continue
		}
		last = key
		var err error
		if kind == pageBranch {
			end := hi
			if i+1 < count {
				next := p[pageHead+(i+1)*element:]
				end = piece(next, native32(next), native32(next[4:]))
			}
			err = w.tree(native64(e[8:]), path, key, end, depth-1)
		} else {
			err = w.leaf(e, id, path, key, depth)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// piece returns size bytes at pos, or nil if there are not that many.
func piece(b []byte, pos, size uint64) []byte {
	if size == 0 || pos > uint64(len(b)) || size > uint64(len(b))-pos {
		return nil
	}
	return b[pos : pos+size : pos+size]
}

func (w *walk) leaf(e []byte, id uint64, path []string, key []byte, depth int) error {
	flags := native32(e)
	value := piece(e, native32(e[4:])+native32(e[8:]), native32(e[12:]))
	if value == nil {
		if native32(e[12:]) != 0 || flags != 0 {
			return w.passOver(path, fmt.Errorf("%w: page %d has a value out of place", errImage, id))
		}
		value = []byte{}
	}
	switch flags {
	case 0:
		return w.each(path, key, value)
	case elementBucket:
		if len(value) < 16 {
			return w.passOver(path, fmt.Errorf("%w: page %d has half a bucket", errImage, id))
		}
		if err := w.each(path, key, nil); err != nil {
			return err
		}
		inner := append(path[:len(path):len(path)], string(key))
		if root := native64(value); root != 0 {
			return w.tree(root, inner, nil, nil, depth-1)
		}
		// A small bucket is a page within the value.
		if len(value) < 16+pageHead || native64(value[16:]) != 0 || native16(value[24:]) != pageLeaf {
			return w.passOver(inner, fmt.Errorf("%w: page %d has half a bucket", errImage, id))
		}
		return w.passOver(inner, w.inPage(value[16:], id, inner, nil, nil, depth-1))
	}
	return w.passOver(path, fmt.Errorf("%w: page %d has an element of kind %d", errImage, id, flags))
}

// check reports whether the engine may open the file: every page of the tree is
// there, once, in order, and none of them is on the list of free pages. each may
// look at what is in it, which it must not keep, and be nil.
func (im *image) check(each func(path []string, key, value []byte) error) error {
	if each == nil {
		each = func([]string, []byte, []byte) error { return nil }
	}
	if im.high > uint64(im.size)/uint64(im.pageSize) {
		return fmt.Errorf("%w: it has %d bytes and should have %d pages", errImage, im.size, im.high)
	}
	used := make([]bool, im.high)
	mark := func(id, overflow uint64) error {
		for n := id; n <= id+overflow; n++ {
			if n >= im.high || used[n] {
				return fmt.Errorf("%w: page %d is in two places", errImage, n)
			}
			used[n] = true
		}
		return nil
	}
	w := &walk{image: im, each: each, used: mark, passing: true}
	if err := w.run(); err != nil {
		return err
	}
	if im.freelist == noFreelist {
		return nil
	}
	p, err := im.page(im.freelist, nil)
	if err != nil {
		return err
	}
	if native16(p[8:]) != pageFreelist {
		return fmt.Errorf("%w: the list of free pages is not one", errImage)
	}
	if err := mark(im.freelist, native32(p[12:])); err != nil {
		return err
	}
	list, count := p[pageHead:], native16(p[10:])
	if count == 0xFFFF && len(list) >= 8 { // too many for the head
		count, list = native64(list), list[8:]
	}
	if count > uint64(len(list)/8) {
		return fmt.Errorf("%w: the list of free pages is cut off", errImage)
	}
	for i := range count {
		if id := native64(list[8*i:]); id < 2 || mark(id, 0) != nil {
			return fmt.Errorf("%w: page %d is in use and free", errImage, id)
		}
	}
	return nil
}

// undo makes a copy of a database forget transactions after good. The engine
// writes changed pages in new places, and those of the transaction before are
// not used again until the one after: only the head has to go.
func undo(file *os.File, good uint64) error {
	found, err := metas(file)
	if err != nil {
		return err
	}
	for at, m := range found {
		if m.txid > good {
			delete(found, at)
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("%w: no acknowledged state is left in it", errImage)
	}
	return evenHeads(file, found)
}

// evenHeads writes a missing head as an older one of the state that the other
// has, as the engine does in a copy.
func evenHeads(file *os.File, found map[int64]meta) error {
	if len(found) != 1 {
		return nil
	}
	for at, m := range found {
		page := make([]byte, pageHead+metaSize)
		if _, err := file.ReadAt(page, at); err != nil {
			return err
		}
		other, number := int64(m.pageSize)-at, uint64(1)
		if other == 0 {
			number = 0
		}
		binary.NativeEndian.PutUint64(page, number)
		binary.NativeEndian.PutUint64(page[pageHead+48:], m.txid-1)
		h := fnv.New64a()
		_, _ = h.Write(page[pageHead : pageHead+56])
		binary.NativeEndian.PutUint64(page[pageHead+56:], h.Sum64())
		if _, err := file.WriteAt(page, other); err != nil {
			return err
		}
	}
	return nil
}

// mendHead puts right a head of which one bit is wrong, and reports whether it
// was that. Otherwise the state of the other is all there is.
func mendHead(file *os.File) (exact bool, err error) {
	found, err := metas(file)
	if err != nil || len(found) != 1 {
		return len(found) == 2, err
	}
	for at, m := range found {
		other := int64(m.pageSize) - at
		page := make([]byte, pageHead+metaSize)
		if _, err := file.ReadAt(page, other); err != nil {
			return false, err
		}
		binary.NativeEndian.PutUint64(page, uint64(other)/uint64(m.pageSize))
		binary.NativeEndian.PutUint16(page[8:], pageMeta)
		clear(page[10:pageHead])
		for bit := -1; bit < metaSize*8; bit++ {
			if bit >= 0 {
				page[pageHead+bit/8] ^= 1 << (bit % 8)
			}
			if fixed, ok := parseMeta(page); ok && fixed.pageSize == m.pageSize {
				_, err := file.WriteAt(page, other)
				return true, err
			}
			if bit >= 0 {
				page[pageHead+bit/8] ^= 1 << (bit % 8)
			}
		}
	}
	return false, evenHeads(file, found)
}
