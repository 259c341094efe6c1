package store

import (
	"fmt"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// A candidate is a record of a copy that is authentic; whether it is the newest
// of its item is another question.
type candidate struct {
	id    uint64
	bytes []byte
	rec   record
	sum   sum
	from  *raw
}

// candidates returns the authentic records of the copies by item, the latest
// revision first.
func candidates(inner *innerKeys, collection string, sources []*raw) map[uint64][]candidate {
	all := map[uint64][]candidate{}
	for _, r := range sources {
		for id, b := range r.items {
			rec, err := parseRecord(b)
			if err != nil {
				continue
			}
			h := inner.sum.record(id, rec)
			if slices.ContainsFunc(all[id], func(c candidate) bool { return c.sum == h }) {
				continue
			}
			if _, ok := inner.authentic(collection, id, rec); ok {
				all[id] = append(all[id], candidate{id, b, rec, h, r})
			}
		}
	}
	for _, list := range all {
		slices.SortStableFunc(list, func(a, b candidate) int { return int(b.rec.revision) - int(a.rec.revision) })
	}
	return all
}

// A repair is the work on one collection whose records are not what its state
// says.
type repair struct {
	*change
	candidates map[uint64][]candidate
	good       map[uint64]present
	bad        []uint64
	moved      map[uint64][]byte // what lies where it is not authentic
	strays     map[string][]byte // what lies where it cannot belong, by key
	want       sum               // what the records that are not good add up to
	need       int               // how many they are
	damage     []Damage
}

// A present is a record that is there and authentic.
type present struct {
	sum      sum
	revision uint64
	info     *info
}

// scan sorts what there is.
func (r *repair) scan() error {
	r.good, r.bad = map[uint64]present{}, nil
	r.strays, r.moved = map[string][]byte{}, map[uint64][]byte{}
	r.want, r.need = r.state.records, int(r.state.count)
	return r.items.ForEach(func(k, v []byte) error {
		id := number(k)
		rec, err := parseRecord(v)
		if err == nil {
			if i, ok := r.inner.authentic(r.c.id, id, rec); ok && id != 0 {
				h := r.inner.sum.record(id, rec)
				r.good[id] = present{h, rec.revision, i}
				r.want.add(h)
				r.need--
				return nil
			}
		}
		if id == 0 || id >= r.state.next {
			r.strays[string(k)] = slices.Clone(v)
		} else {
			r.bad = append(r.bad, id)
			r.moved[id] = slices.Clone(v)
		}
		return nil
	})
}

// maxStray bounds how many numbers are tried for a record whose own is damaged.
const maxStray = 1 << 17

// rehome looks where records belong that are damaged where they lie: the damage
// may be in the number that they lie under.
func (r *repair) rehome() error {
	here := &raw{from: &dump{time: r.c.s.now()}}
	try := func(b []byte) bool {
		rec, err := parseRecord(b)
		if err != nil {
			return false
		}
		for id := uint64(1); id < min(r.state.next, maxStray); id++ {
			if _, there := r.good[id]; there {
				continue
			}
			if _, ok := r.inner.authentic(r.c.id, id, rec); ok {
				r.candidates[id] = slices.Insert(r.candidates[id], 0, candidate{id, b, rec, r.inner.sum.record(id, rec), here})
				return true
			}
		}
		return false
	}
	for key, b := range r.strays {
		if !try(b) {
			r.damage = append(r.damage, Damage{Collection: r.c.id, What: fmt.Sprintf("A record of collection %s is damaged beyond telling which it was.", r.c.id)})
		}
		if err := r.items.Delete([]byte(key)); err != nil {
			return err
		}
	}
	for _, id := range slices.Clone(r.bad) {
		if try(r.moved[id]) {
			if err := r.items.Delete(numberKey(id)); err != nil {
				return err
			}
			if len(r.candidates[id]) == 0 {
				r.bad = slices.DeleteFunc(r.bad, func(other uint64) bool { return other == id })
			}
		}
	}
	return nil
}

// maxOptions bounds the search for records that add up: all choices of so many.
const maxOptions = 16

// exact finds the records of copies with which everything adds up again. They
// are then the very ones that were lost.
func (r *repair) exact() ([]candidate, bool) {
	type option struct {
		candidate
		delta sum
		count int
	}
	var options []option
	add := func(id uint64) {
		was, there := r.good[id]
		for _, c := range r.candidates[id] {
			o := option{c, c.sum, 1}
			if there {
				if c.rec.revision <= was.revision {
					continue
				}
				o.delta.add(was.sum)
				o.count = 0
			}
			options = append(options, o)
		}
	}
	for _, id := range r.bad {
		add(id)
	}
	missing, newer := []uint64{}, []uint64{}
	for id := range r.candidates {
		if _, there := r.good[id]; there {
			newer = append(newer, id)
		} else if !slices.Contains(r.bad, id) {
			missing = append(missing, id)
		}
	}
	slices.Sort(missing)
	slices.Sort(newer)
	for _, id := range slices.Concat(missing, newer) {
		add(id)
	}
	// The latest of all that are damaged is the first guess, however many.
	var first []candidate
	want, need := r.want, r.need
	for _, id := range r.bad {
		if len(r.candidates[id]) > 0 {
			c := r.candidates[id][0]
			first = append(first, c)
			want.add(c.sum)
			need--
		}
	}
	if want == (sum{}) && need == 0 {
		return first, true
	}
	options = options[:min(len(options), maxOptions)]
	for set := range 1 << len(options) {
		want, need, taken := r.want, r.need, map[uint64]bool{}
		var chosen []candidate
		for i, o := range options {
			if set>>i&1 == 0 {
				continue
			}
			want.add(o.delta)
			need -= o.count
			taken[o.id] = true
			chosen = append(chosen, o.candidate)
		}
		if want == (sum{}) && need == 0 && len(taken) == len(chosen) {
			return chosen, true
		}
	}
	return nil, false
}

// run puts right what can be, and makes the state say what there is then.
func (r *repair) run(salvage *raw) error {
	if err := r.scan(); err != nil {
		return err
	}
	if err := r.rehome(); err != nil {
		return err
	}
	r.write()
	r.state.slots = slices.Clone(r.state.slots)
	chosen, exact := r.exact()
	if !exact {
		chosen = r.guess()
	}
	for _, c := range chosen {
		what := "Item %d of collection %s was damaged, and is restored."
		if !exact {
			what = "Item %d of collection %s was damaged, and is as it was in the copy of " + when(c.from.from.time) + ", which may be older."
		}
		if err := r.restore(c, what); err != nil {
			return err
		}
	}
	if salvage != nil {
		if err := r.merge(salvage); err != nil {
			return err
		}
	}
	for _, id := range r.bad {
		if !slices.ContainsFunc(chosen, func(c candidate) bool { return c.id == id }) {
			r.damage = append(r.damage, Damage{Collection: r.c.id, Item: itemID(id), What: fmt.Sprintf("Item %d of collection %s is damaged, and in no copy.", id, r.c.id)})
		}
	}
	if err := r.reindex(); err != nil {
		return err
	}
	return r.recount()
}

func (r *repair) restore(c candidate, what string) error {
	r.damage = append(r.damage, Damage{Collection: r.c.id, Item: itemID(c.id), What: fmt.Sprintf(what, c.id, r.c.id), Restored: true})
	r.state.next = max(r.state.next, c.id+1)
	return r.items.Put(numberKey(c.id), c.bytes)
}

// guess chooses what to restore where nothing adds up: for what cannot be read
// anyway the latest there is, and for what is gone too, if something must be. An
// item that was deleted may come back; better than one that was not stays away.
func (r *repair) guess() (chosen []candidate) {
	for _, id := range r.bad {
		if list := r.candidates[id]; len(list) > 0 {
			chosen = append(chosen, list[0])
		}
	}
	unexplained := r.need != len(r.bad) || len(r.bad) == 0
	if r.need > len(r.bad) {
		for id, list := range r.candidates {
			if _, there := r.good[id]; !there && !slices.Contains(r.bad, id) {
				chosen = append(chosen, list[0])
			}
		}
	}
	if unexplained {
		r.damage = append(r.damage, Damage{Collection: r.c.id, What: fmt.Sprintf(
			"Collection %s has other items than it was left with, and the copies do not tell which: some may be gone, or be older than they were.", r.c.id)})
	}
	return chosen
}

// merge takes what is newer in a damaged file than in the copy that took its
// place.
func (r *repair) merge(salvage *raw) error {
	next := r.state.next
	revision := r.state.revision - 1 // before the repair
	for id, list := range candidates(r.inner, r.c.id, []*raw{salvage}) {
		_, there := r.good[id]
		if c := list[0]; (there && c.rec.revision > revision) || (!there && id >= next) {
			if err := r.restore(c, "Item %d of collection %s is newer in the damaged database than in its copy, and is taken from there."); err != nil {
				return err
			}
		}
	}
	return nil
}

// reindex makes the index anew. What is damaged keeps the entries that it has:
// who looks for it finds it, and hears that it is damaged.
func (r *repair) reindex() error {
	wanted := map[string]bool{}
	keep := map[uint64]bool{}
	err := r.items.ForEach(func(k, v []byte) error {
		id := number(k)
		i := r.good[id].info
		if rec, err := parseRecord(v); err == nil {
			if now, err := r.inner.openInfo(r.c.id, id, rec); err == nil {
				i = now
			}
		}
		if i == nil {
			keep[id] = true
			return nil
		}
		for _, e := range r.outer.entries(id, i.attributes) {
			wanted[string(e)] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	var gone [][]byte
	err = r.index.ForEach(func(k, _ []byte) error {
		switch {
		case wanted[string(k)]:
			delete(wanted, string(k))
		case len(k) != entrySize || !keep[number(k[hashSize:])]:
			gone = append(gone, slices.Clone(k))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range gone {
		if err := r.index.Delete(k); err != nil {
			return err
		}
	}
	for _, k := range slices.Sorted(maps.Keys(wanted)) {
		if err := r.index.Put([]byte(k), []byte{}); err != nil {
			return err
		}
	}
	return nil
}

// recount makes the state say what there is.
func (ch *change) recount() error {
	ch.write()
	t := tally(ch.buckets, ch.inner, ch.outer)
	ch.state.count, ch.state.records, ch.state.outer, ch.state.index = t.count, t.records, t.outer, t.index
	if k, _ := ch.items.Cursor().Last(); k != nil {
		ch.state.next = max(ch.state.next, number(k)+1)
	}
	return nil
}

// unlist takes an item out of the index whose attributes are not known.
func (ch *change) unlist(id uint64) error {
	var gone [][]byte
	err := ch.index.ForEach(func(k, _ []byte) error {
		if len(k) == entrySize && number(k[hashSize:]) == id {
			gone = append(gone, slices.Clone(k))
		}
		return nil
	})
	for _, k := range gone {
		if err := ch.index.Delete(k); err != nil {
			return err
		}
	}
	return err
}

// repair puts right a collection with its key, and returns the state that it has
// then. st is what it should be; nil: what it is in memory when its turn comes,
// as others go on writing until then. mending is held.
func (c *collection) repair(inner *innerKeys, outer *outerKeys, st *state) (*state, error) {
	if c.s.readOnly == nil {
		if _, err := c.s.keep(c.s.path()); err != nil {
			c.s.log.Warn("the damaged database is not kept", "err", err)
		}
	}
	var salvage *raw
	name := ""
	err := c.read(func(at buckets) error {
		name = string(at.root.Get([]byte(salvageKey)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	sources := c.s.sources(c.id, name)
	if name != "" && len(sources) > 0 && sources[0].from.path == c.s.inDir(name) {
		salvage, sources = sources[0], sources[1:]
	}
	var r *repair
	err = c.s.update(func(b *batch) error {
		at, err := c.of(b.tx)
		if err != nil {
			return err
		}
		ch := b.touched[c]
		if ch == nil {
			base := st
			if base == nil {
				c.mu.RLock()
				base = c.state
				c.mu.RUnlock()
			}
			ch = b.touch(c, at, inner, outer, base)
		}
		r = &repair{change: ch, candidates: candidates(inner, c.id, sources)}
		if err := r.run(salvage); err != nil {
			return err
		}
		return at.root.Delete([]byte(salvageKey))
	})
	if err != nil {
		return nil, err
	}
	for _, d := range r.damage {
		c.s.report(d)
	}
	return r.state, nil
}

// mend is called when an item of an unlocked collection turns out to be damaged,
// and reports whether it is worth trying again. 0 is no item in particular.
func (c *collection) mend(inner *innerKeys, n uint64) bool {
	c.mending.Lock()
	defer c.mending.Unlock()
	c.mu.RLock()
	st, outer, known := c.state, c.outer, c.lost[n]
	c.mu.RUnlock()
	if known || outer == nil || st == nil {
		return false
	}
	if c.sound(inner, n) {
		return true
	}
	_, err := c.repair(inner, outer, nil)
	if err != nil {
		c.s.report(Damage{Collection: c.id, Item: itemID(n), What: fmt.Sprintf("Item %d of collection %s is damaged, and cannot be repaired: %v.", n, c.id, err)})
	}
	sound := c.sound(inner, n)
	if !sound {
		c.mu.Lock()
		if c.lost == nil {
			c.lost = map[uint64]bool{}
		}
		c.lost[n] = true
		c.mu.Unlock()
	}
	return sound || n == 0
}

// sound reports whether an item can be read.
func (c *collection) sound(inner *innerKeys, n uint64) (ok bool) {
	err := c.s.view(func(tx *bolt.Tx) error {
		at, err := c.of(tx)
		if err != nil {
			return err
		}
		rec, err := parseRecord(at.items.Get(numberKey(n)))
		if err == nil {
			_, ok = inner.authentic(c.id, n, rec)
		}
		return err
	})
	return err == nil && ok
}
