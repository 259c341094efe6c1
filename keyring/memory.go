package keyring

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
)

// A Memory is a Collection that is nowhere but in memory, and gone with the
// process. It has no key, so that it is never locked: what is not to outlive a
// lock is deleted. Secrets lie in memory that is not swapped, and are wiped when
// they are replaced or deleted.
type Memory struct {
	id      string
	created time.Time

	mu       sync.RWMutex
	label    string
	modified time.Time
	items    map[string]*memoryItem
	order    []string // of items, the oldest first
	last     uint64   // the last ID given out
	writes   uint64   // of items, so far
	size     int      // of all items
}

// maxMemory is how much all items of a collection in memory may come to: any
// program may fill it, and none shall take the memory of the machine. itemSize
// is what an item takes beside what is in it.
const (
	maxMemory = 64 << 20
	itemSize  = 512
)

// A memoryItem is never changed but by replacing it as a whole, so that what
// was handed out of it stays as it was.
type memoryItem struct {
	info    ItemInfo
	secret  secret.Bytes
	written uint64 // which of the collection's writes it comes from
}

func (i *memoryItem) size() int {
	n := itemSize + len(i.info.Label) + len(i.info.ContentType) + i.secret.Len()
	for name, value := range i.info.Attributes {
		n += len(name) + len(value)
	}
	return n
}

// growLocked makes room for one item in the place of another, of size old.
func (m *Memory) growLocked(item *memoryItem, old int) error {
	size := m.size + item.size() - old
	if size > maxMemory && size > m.size {
		return fmt.Errorf("%s has no more than %d MiB: %w", m.id, maxMemory>>20, ErrUnavailable)
	}
	m.size = size
	return nil
}

// NewMemory returns an empty collection.
func NewMemory(id, label string) *Memory {
	now := time.Now()
	return &Memory{id: id, label: label, created: now, modified: now, items: map[string]*memoryItem{}}
}

// Info implements [Collection].
func (m *Memory) Info() CollectionInfo {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return CollectionInfo{ID: m.id, Label: m.label, Created: m.created, Modified: m.modified}
}

// Items implements [Collection].
func (m *Memory) Items() ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Clone(m.order), nil
}

// Search implements [Collection]. It looks at each item.
func (m *Memory) Search(attributes map[string]string) ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var found []string
	for _, id := range m.order {
		if hasAll(m.items[id].info.Attributes, attributes) {
			found = append(found, id)
		}
	}
	slices.SortFunc(found, func(a, b string) int { return cmp.Compare(m.items[b].written, m.items[a].written) })
	return found, nil
}

// hasAll reports whether attributes has all of wanted.
func hasAll(attributes, wanted map[string]string) bool {
	for name, value := range wanted {
		if v, ok := attributes[name]; !ok || v != value {
			return false
		}
	}
	return true
}

// Item implements [Collection].
func (m *Memory) Item(id string) (ItemInfo, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	item, err := m.itemLocked(id)
	if err != nil {
		return ItemInfo{}, err
	}
	return item.info, nil
}

// Secret implements [Collection].
func (m *Memory) Secret(id string) (secret.Bytes, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	item, err := m.itemLocked(id)
	if err != nil {
		return secret.Bytes{}, err
	}
	return item.secret.Clone(), nil
}

func (m *Memory) itemLocked(id string) (*memoryItem, error) {
	item := m.items[id]
	if item == nil {
		return nil, fmt.Errorf("item %s of %s: %w", id, m.id, ErrNotFound)
	}
	return item, nil
}

// Create implements [Collection].
func (m *Memory) Create(item NewItem, replace bool) (id string, replaced bool, err error) {
	now := time.Now()
	fresh := &memoryItem{
		info: ItemInfo{
			Label: item.Label, Attributes: maps.Clone(item.Attributes), ContentType: item.ContentType,
			Created: item.Created, Modified: item.Modified,
		},
		secret: item.Secret.Clone(),
	}
	if fresh.info.Created.IsZero() {
		fresh.info.Created = now
	}
	if fresh.info.Modified.IsZero() {
		fresh.info.Modified = now
		if item.Created.IsZero() {
			fresh.info.Modified = fresh.info.Created
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if replace {
		id, replaced = m.sameLocked(item.Attributes)
	}
	old := 0
	if replaced {
		old = m.items[id].size()
	}
	if err := m.growLocked(fresh, old); err != nil {
		fresh.secret.Wipe()
		return "", false, err
	}
	if replaced {
		fresh.info.Created = m.items[id].info.Created
		m.items[id].secret.Wipe()
	} else {
		m.last++
		id = strconv.FormatUint(m.last, 10)
		m.order = append(m.order, id)
	}
	fresh.info.ItemRef = ItemRef{m.id, id}
	m.writes++
	fresh.written = m.writes
	m.items[id] = fresh
	m.modified = now
	return id, replaced, nil
}

// sameLocked finds the newest item with exactly these attributes.
func (m *Memory) sameLocked(attributes map[string]string) (id string, ok bool) {
	for i := len(m.order) - 1; i >= 0; i-- {
		if maps.Equal(m.items[m.order[i]].info.Attributes, attributes) {
			return m.order[i], true
		}
	}
	return "", false
}

// Change implements [Collection].
func (m *Memory) Change(id string, change ItemChange) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.itemLocked(id)
	if err != nil {
		return err
	}
	fresh := *old
	if change.Label != nil {
		fresh.info.Label = *change.Label
	}
	if change.Attributes != nil {
		fresh.info.Attributes = maps.Clone(change.Attributes)
	}
	if change.ContentType != nil {
		fresh.info.ContentType = *change.ContentType
	}
	if change.Secret != nil {
		fresh.secret = change.Secret.Clone()
	}
	if err := m.growLocked(&fresh, old.size()); err != nil {
		if change.Secret != nil {
			fresh.secret.Wipe()
		}
		return err
	}
	if change.Secret != nil {
		old.secret.Wipe()
	}
	m.modified = time.Now()
	fresh.info.Modified = m.modified
	m.writes++
	fresh.written = m.writes
	m.items[id] = &fresh
	return nil
}

// Delete implements [Collection].
func (m *Memory) Delete(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	item, err := m.itemLocked(id)
	if err != nil {
		return err
	}
	m.size -= item.size()
	item.secret.Wipe()
	delete(m.items, id)
	for i, other := range m.order {
		if other == id {
			m.order = append(m.order[:i], m.order[i+1:]...)
			break
		}
	}
	m.modified = time.Now()
	return nil
}

// SetLabel implements [Collection].
func (m *Memory) SetLabel(label string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.label, m.modified = label, time.Now()
	return nil
}

// Lock does nothing, as there is no key to drop.
func (m *Memory) Lock() {}

// Clear wipes everything in the collection, which is empty then.
func (m *Memory) Clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, item := range m.items {
		item.secret.Wipe()
	}
	clear(m.items)
	m.size = 0
	m.order, m.modified = nil, time.Now()
}
