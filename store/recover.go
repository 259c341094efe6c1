package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/keyringd/keyringd/internal/atomicfile"
	"github.com/keyringd/keyringd/keyring"
)

// recoverDatabase makes a database of what is left of a damaged one and of its
// copies, collection by collection: the damaged file's where it is as it was
// written, else the newest copy's. The damaged file is kept, and what is newer
// in it comes back when the collection is unlocked and it can be told what of it
// is authentic.
func (s *Store) recoverDatabase(cause error) error {
	if s.readOnly != nil {
		return damaged("%w; it cannot be repaired: %w", cause, s.readOnly)
	}
	s.log.Error("the store is damaged, and is being recovered", "err", cause)
	var sources []*dump // the damaged one first, then the newest copy
	kept := ""
	if !errors.Is(cause, fs.ErrNotExist) {
		var err error
		if kept, err = s.keep(s.path()); err != nil {
			return unwritten("keep the damaged database", err)
		}
		if d, err := readDump(s.path(), ""); err == nil {
			sources = append(sources, d)
		}
	}
	broken := len(sources)
	for _, path := range s.copies() {
		if d, err := readDump(path, ""); err == nil && d.lost == nil && d.names != nil {
			sources = append(sources, d)
		} else {
			s.log.Warn("a copy of the store is damaged, too", "path", path)
		}
	}
	slices.SortStableFunc(sources[broken:], func(a, b *dump) int { return int(min(b.txid, 1<<40)) - int(min(a.txid, 1<<40)) })
	if broken > 0 && errors.Is(cause, errHalf) {
		// Its newest state is lost, and a copy has it: nothing is taken from this.
		sources, broken = sources[1:], 0
	}
	for _, d := range sources {
		if d.format > format {
			return problem(keyring.ErrUnsupported, "it was made by a newer keyringd")
		}
	}
	names := namesOf(sources)
	if names == nil {
		return damaged("%w, and there is no good copy of it; hint: it is kept as %s", cause, kept)
	}
	chosen := map[string]*raw{}
	for _, id := range names.collections {
		r := s.choose(id, sources)
		if r == nil {
			s.report(Damage{Collection: id, What: "Collection " + id + " is lost: it is in no copy."})
			continue
		}
		chosen[id] = r
		if r.whole(s, id) && broken > 0 && r.from == sources[0] {
			continue
		}
		if kept != "" {
			r.keys[salvageKey] = []byte(filepath.Base(kept))
		}
		s.report(Damage{Collection: id, Restored: r.lost == nil, What: fmt.Sprintf(
			"Collection %s is as it was on %s, for the database was damaged: %v. What is newer and can be read comes back when it is unlocked.",
			id, when(r.from.time), cause)})
	}
	if len(chosen) == 0 && len(names.collections) > 0 {
		return damaged("%w, and no collection is left in it or its copies; hint: it is kept as %s", cause, kept)
	}
	return s.build(func(tx *bolt.Tx) error {
		for id, r := range chosen {
			if err := r.write(tx, id); err != nil {
				return err
			}
		}
		// What is lost keeps its name: a new and empty one is not it.
		for _, id := range names.collections {
			root, err := tx.CreateBucketIfNotExists([]byte(collectionPrefix + id))
			if err == nil && chosen[id] == nil {
				err = root.Put([]byte(lostKey), []byte{format})
			}
			if err != nil {
				return err
			}
		}
		return putTop(tx, names)
	})
}

// errHalf is an image of which one head is damaged.
var errHalf = fmt.Errorf("%w: one of its heads is", errImage)

// recoverHead puts right the head of a database.
func (s *Store) recoverHead() error {
	kept, err := s.keep(s.path())
	if err != nil {
		return unwritten("keep the damaged database", err)
	}
	from, err := os.Open(kept)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	temp, exact := s.path()+".new", false
	err = s.writeFile(temp, func(to *os.File) error {
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
		exact, err = mendHead(to)
		return err
	})
	if err == nil {
		err = s.checkFile(temp)
	}
	if err != nil {
		return err
	}
	for _, path := range s.copies() {
		if !exact && s.txid(path) > s.txid(temp) {
			return fmt.Errorf("%w, and a copy is newer than what is left", errHalf)
		}
	}
	d := Damage{Restored: true, What: "The head of the database was damaged, and is restored."}
	if !exact {
		d = Damage{What: "The head of the database was damaged: the last change may be undone."}
	}
	s.report(d)
	return s.place(temp)
}

// namesOf returns the newest directory that could be read. Where that is not the
// damaged database's own it may not know of a collection that is there.
func namesOf(sources []*dump) *directory {
	var names *directory
	for _, d := range sources {
		if d.names != nil {
			names = d.names.clone()
			break
		}
	}
	if len(sources) == 0 || sources[0].names != nil {
		return names
	}
	for _, id := range slices.Sorted(maps.Keys(sources[0].collections)) {
		if names == nil {
			names = &directory{aliases: map[string]string{}}
		}
		if !slices.Contains(names.collections, id) {
			names.collections = append(names.collections, id)
		}
	}
	return names
}

// choose returns the best that there is of a collection: one that is whole, or
// else the one that has most.
func (s *Store) choose(id string, sources []*dump) *raw {
	var best *raw
	for _, d := range sources {
		r := d.collections[id]
		if r == nil || len(r.slots) == 0 {
			continue
		}
		if r.whole(s, id) {
			return r
		}
		if best == nil {
			best = r
		}
	}
	return best
}

// keep copies a damaged file beside, for good.
func (s *Store) keep(path string) (string, error) {
	stamp := s.now().UTC().Format("20060102T150405")
	kept := path + ".corrupt-" + stamp
	for n := 2; ; n++ {
		if _, err := os.Lstat(kept); errors.Is(err, fs.ErrNotExist) {
			break
		}
		kept = fmt.Sprintf("%s.corrupt-%s-%d", path, stamp, n)
	}
	from, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = from.Close() }()
	err = s.writeFile(kept, func(to *os.File) error { _, err := io.Copy(to, from); return err })
	if err == nil {
		err = atomicfile.SyncDir(s.dir)
	}
	return kept, err
}

// sources returns what the copies have of a collection, the newest first, and
// before them the damaged file that a recovery has kept for it.
func (s *Store) sources(id, salvage string) []*raw {
	var list []*raw
	for _, path := range s.copies() {
		if d, err := readDump(path, id); err == nil && d.collections[id] != nil {
			list = append(list, d.collections[id])
		}
	}
	slices.SortStableFunc(list, func(a, b *raw) int { return int(min(b.from.txid, 1<<40)) - int(min(a.from.txid, 1<<40)) })
	if salvage != "" && !strings.ContainsRune(salvage, filepath.Separator) {
		if d, err := readDump(filepath.Join(s.dir, salvage), id); err == nil && d.collections[id] != nil {
			list = slices.Insert(list, 0, d.collections[id])
		}
	}
	return list
}

// load reads the collections of a database that was just opened, and puts right
// what can be put right while they are locked.
func (s *Store) load() error {
	err := s.view(func(tx *bolt.Tx) error {
		names, err := decodeDirectory(tx.Bucket([]byte(topBucket)).Get([]byte(directoryKey)))
		if err != nil {
			return damaged("the directory of the store is damaged")
		}
		s.names = names
		for _, id := range names.collections {
			c := &collection{s: s, id: id}
			if err := c.load(tx); err != nil {
				return err
			}
			s.collections[id] = c
		}
		return nil
	})
	if err != nil {
		return err
	}
	if s.noIndexKey != nil && len(s.names.collections) > 0 {
		s.log.Warn("there is no index key: collections cannot be searched until each was unlocked once, which makes another", "err", s.noIndexKey)
	}
	for _, c := range s.collections {
		if err := c.heal(); err != nil {
			s.log.Warn("a locked collection cannot be repaired", "collection", c.id, "err", err)
		}
	}
	return nil
}

// heal restores what opens a collection from copies: its slots, and its index
// key with the header.
func (c *collection) heal() error {
	if c.s.readOnly != nil || (c.s.indexKey.Len() == 0 && c.suspect == nil) {
		return nil
	}
	missing := false
	if c.state != nil {
		for _, l := range c.state.slots {
			missing = missing || !slices.ContainsFunc(c.slots, func(have *slot) bool { return have.id == l.id && have.tag == l.tag })
		}
		// One that was removed, and was put back by somebody else.
		c.slots = slices.DeleteFunc(c.slots, func(have *slot) bool { return !slices.Contains(c.state.slots, slotTag{have.id, have.tag}) })
	}
	if !missing && c.outer != nil && c.suspect == nil {
		return nil
	}
	return c.healFrom(c.s.sources(c.id, ""))
}

func (c *collection) healFrom(sources []*raw) error {
	var done []string
	err := c.s.update(func(b *batch) error {
		at, err := c.of(b.tx)
		if err != nil {
			return err
		}
		for _, r := range sources {
			if c.outer != nil || c.s.indexKey.Len() == 0 {
				break
			}
			xk, err := unwrapKey(c.s.indexKey, c.id, r.keys[xkeyKey])
			if err != nil {
				continue
			}
			outer := newOuterKeys(xk)
			st, err := outer.openHeader(c.id, at.root.Get([]byte(headerKey)))
			if err != nil {
				outer.wipe()
				continue
			}
			b.writes++
			if err := at.root.Put([]byte(xkeyKey), r.keys[xkeyKey]); err != nil {
				return err
			}
			c.outer, c.state = outer, st
			c.suspect = tally(at, nil, outer).differs(c.id, st)
			done = append(done, "The wrapped index key of collection "+c.id+" was damaged, and is restored from a copy.")
		}
		for _, r := range sources {
			for id, value := range r.slots {
				l, err := decodeSlot(id, value)
				if err != nil || slices.ContainsFunc(c.slots, func(have *slot) bool { return have.id == id }) ||
					(c.state != nil && !slices.Contains(c.state.slots, slotTag{id, l.tag})) ||
					(c.state == nil && at.slots.Get(numberKey(id)) == nil) {
					continue
				}
				b.writes++
				if err := at.slots.Put(numberKey(id), value); err != nil {
					return err
				}
				c.slots = append(c.slots, l)
				done = append(done, fmt.Sprintf("Slot %d of collection %s was damaged, and is restored from a copy.", id, c.id))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(c.slots, func(a, b *slot) int { return int(a.id) - int(b.id) })
	for _, what := range done {
		c.s.report(Damage{Collection: c.id, What: what, Restored: true})
	}
	if c.state == nil {
		return nil
	}
	complete := true
	for _, l := range c.state.slots {
		if !slices.ContainsFunc(c.slots, func(have *slot) bool { return have.id == l.id }) {
			complete = false
			c.s.report(Damage{Collection: c.id, What: fmt.Sprintf("Slot %d of collection %s is damaged, and in no copy.", l.id, c.id)})
		}
	}
	if complete && c.outer != nil {
		c.suspect = nil
		return c.read(func(at buckets) error {
			c.suspect = tally(at, nil, c.outer).differs(c.id, c.state)
			return nil
		})
	}
	return nil
}

// when says a time in a sentence.
func when(t time.Time) string { return t.Format("2 January 2006 at 15:04") }
