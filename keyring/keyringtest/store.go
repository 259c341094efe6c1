package keyringtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

// A FakeSealer keeps what it seals in its own memory, so that only the same
// FakeSealer unseals it. The zero value is ready; all methods may be called
// concurrently.
type FakeSealer struct {
	Device *FakeDevice // counts wrong auth values; nil: nothing is counted

	// Hook, if set, is called at the start of each Seal and Unseal; what it
	// returns fails the call.
	Hook func(ctx context.Context) error

	mu     sync.Mutex
	sealed map[string]sealed
}

type sealed struct{ auth, plain secret.Bytes }

// Seal implements keyring.Sealer.
func (f *FakeSealer) Seal(ctx context.Context, auth, plain secret.Bytes) ([]byte, error) {
	if err := f.begin(ctx); err != nil {
		return nil, err
	}
	handle := rand.Text()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sealed == nil {
		f.sealed = map[string]sealed{}
	}
	f.sealed[handle] = sealed{auth.Clone(), plain.Clone()}
	return []byte(handle), nil
}

// Unseal implements keyring.Sealer. What another one has sealed is
// keyring.ErrUnavailable. Only values for what has one are counted.
func (f *FakeSealer) Unseal(ctx context.Context, auth secret.Bytes, blob []byte) (secret.Bytes, error) {
	if err := f.begin(ctx); err != nil {
		return secret.Bytes{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.sealed[string(blob)]
	if !ok {
		return secret.Bytes{}, fmt.Errorf("sealed by another device: %w", keyring.ErrUnavailable)
	}
	right := auth.Equal(s.auth)
	if f.Device != nil && s.auth.Len() > 0 {
		if err := f.Device.Try(right); err != nil {
			return secret.Bytes{}, err
		}
	}
	if !right {
		return secret.Bytes{}, fmt.Errorf("sealed: %w", keyring.ErrAuthFailed)
	}
	return s.plain.Clone(), nil
}

func (f *FakeSealer) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.Hook != nil {
		return f.Hook(ctx)
	}
	return nil
}

// A Store is a keyring.CollectionStore in memory. The fields are set before its
// first use; all methods may be called concurrently.
type Store struct {
	TPM keyring.Sealer // nil: there is no TPM

	// Hook, if set, is called at the start of each method that may fail, of the
	// store and of its collections, without locks. op is the method's name, such
	// as "Search" or "Unlock"; what it returns fails the call. ctx is the
	// method's, where it has one.
	Hook func(ctx context.Context, op, collection string) error

	mu          sync.Mutex
	collections []*collection
	aliases     map[string]string
	last        int
}

var (
	_ keyring.CollectionStore = (*Store)(nil)
	_ keyring.Lockable        = (*collection)(nil)
	_ keyring.Sealer          = (*FakeSealer)(nil)
)

// NewStore returns an empty store without a TPM.
func NewStore() *Store { return &Store{aliases: map[string]string{}} }

func (s *Store) hook(ctx context.Context, op, collection string) error {
	if s.Hook == nil {
		return nil
	}
	return s.Hook(ctx, op, collection)
}

// Collections implements keyring.CollectionStore.
func (s *Store) Collections() []keyring.Collection {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]keyring.Collection, len(s.collections))
	for i, c := range s.collections {
		list[i] = c
	}
	return list
}

// Create implements keyring.CollectionStore.
func (s *Store) Create(ctx context.Context, id, label string, cr keyring.Credential) (keyring.Lockable, error) {
	if err := s.hook(ctx, "Create", id); err != nil {
		return nil, err
	}
	c := &collection{store: s, key: secret.New(32)}
	c.key.Use(func(p []byte) { _, _ = rand.Read(p) })
	if _, code, err := c.add(ctx, cr); err != nil {
		return nil, err
	} else if code.Len() > 0 {
		code.Wipe()
		return nil, fmt.Errorf("the first slot cannot be a recovery code: %w", keyring.ErrUnsupported)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, other := range s.collections {
		if other.id == id {
			return nil, fmt.Errorf("collection %s: %w: %w", id, keyring.ErrUnsupported, fs.ErrExist)
		}
	}
	if id == "" {
		s.last++
		id = "c" + strconv.Itoa(s.last)
	}
	c.id, c.items = id, keyring.NewMemory(id, label)
	s.collections = append(s.collections, c)
	return c, nil
}

// Delete implements keyring.CollectionStore.
func (s *Store) Delete(id string) error {
	if err := s.hook(context.Background(), "DeleteCollection", id); err != nil {
		return err
	}
	s.mu.Lock()
	i := slices.IndexFunc(s.collections, func(c *collection) bool { return c.id == id })
	if i < 0 {
		s.mu.Unlock()
		return fmt.Errorf("collection %s: %w", id, keyring.ErrNotFound)
	}
	c := s.collections[i]
	s.collections = slices.Delete(s.collections, i, i+1)
	s.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deleted = true
	c.key.Wipe()
	c.items.Clear()
	return nil
}

// Aliases implements keyring.CollectionStore.
func (s *Store) Aliases() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.aliases)
}

// SetAlias implements keyring.CollectionStore.
func (s *Store) SetAlias(name, id string) error {
	if err := s.hook(context.Background(), "SetAlias", id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == "" {
		delete(s.aliases, name)
		return nil
	}
	s.aliases[name] = id
	return nil
}

// A collection keeps its items in clear: it only plays being locked.
type collection struct {
	store *Store
	id    string
	items *keyring.Memory

	mu      sync.Mutex
	key     secret.Bytes // empty: locked
	deleted bool
	slots   []slot
	last    int
}

type slot struct {
	info   keyring.SlotInfo
	value  secret.Bytes // of a passphrase or a recovery code
	sealed []byte       // for a TPM
}

// open reports what stands against a use of the unlocked collection.
func (c *collection) open(op string) error {
	if err := c.there(op); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key.Len() == 0 {
		return fmt.Errorf("collection %s: %w", c.id, keyring.ErrLocked)
	}
	return nil
}

// there reports what stands against a use of the collection.
func (c *collection) there(op string) error {
	if err := c.store.hook(context.Background(), op, c.id); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deleted {
		return fmt.Errorf("collection %s: %w", c.id, keyring.ErrNotFound)
	}
	return nil
}

func (c *collection) Info() keyring.CollectionInfo {
	info := c.items.Info()
	c.mu.Lock()
	defer c.mu.Unlock()
	info.Locked = c.key.Len() == 0
	return info
}

func (c *collection) Items() ([]string, error) {
	if err := c.there("Items"); err != nil {
		return nil, err
	}
	return c.items.Items()
}

func (c *collection) Search(attributes map[string]string) ([]string, error) {
	if err := c.there("Search"); err != nil {
		return nil, err
	}
	return c.items.Search(attributes)
}

func (c *collection) Item(id string) (keyring.ItemInfo, error) {
	if err := c.open("Item"); err != nil {
		return keyring.ItemInfo{}, err
	}
	return c.items.Item(id)
}

func (c *collection) Secret(id string) (secret.Bytes, error) {
	if err := c.open("Secret"); err != nil {
		return secret.Bytes{}, err
	}
	return c.items.Secret(id)
}

func (c *collection) Create(item keyring.NewItem, replace bool) (string, bool, error) {
	if err := c.open("CreateItem"); err != nil {
		return "", false, err
	}
	return c.items.Create(item, replace)
}

func (c *collection) Change(id string, change keyring.ItemChange) error {
	if err := c.open("Change"); err != nil {
		return err
	}
	return c.items.Change(id, change)
}

func (c *collection) Delete(id string) error {
	if err := c.open("Delete"); err != nil {
		return err
	}
	return c.items.Delete(id)
}

func (c *collection) SetLabel(label string) error {
	if err := c.open("SetLabel"); err != nil {
		return err
	}
	return c.items.SetLabel(label)
}

func (c *collection) Lock() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key.Wipe()
	c.key = secret.Bytes{}
}

func (c *collection) Slots() []keyring.SlotInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]keyring.SlotInfo, len(c.slots))
	for i, s := range c.slots {
		list[i] = s.info
	}
	return list
}

func (c *collection) Unlock(ctx context.Context, cr keyring.Credential) error {
	if err := c.store.hook(ctx, "Unlock", c.id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	slots := slices.Clone(c.slots)
	c.mu.Unlock()
	var failed error
	for _, s := range slots {
		// A value is not for a TPM slot without a PIN, nor nothing for one with.
		if s.info.Kind != cr.Kind || cr.Kind == keyring.SlotTPM && s.info.PIN != (cr.Value.Len() > 0) {
			continue
		}
		key, err := c.try(ctx, s, cr.Value)
		if err != nil {
			failed = err
			continue
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.deleted {
			key.Wipe()
			return fmt.Errorf("collection %s: %w", c.id, keyring.ErrNotFound)
		}
		c.key.Wipe()
		c.key = key
		return nil
	}
	if failed == nil {
		failed = fmt.Errorf("collection %s has no such slot: %w", c.id, keyring.ErrNotFound)
	}
	return failed
}

func (c *collection) try(ctx context.Context, s slot, value secret.Bytes) (secret.Bytes, error) {
	if s.info.Kind != keyring.SlotTPM {
		if !s.value.Equal(value) {
			return secret.Bytes{}, fmt.Errorf("collection %s: %w", c.id, keyring.ErrAuthFailed)
		}
		return secret.New(32), nil
	}
	if c.store.TPM == nil {
		return secret.Bytes{}, fmt.Errorf("there is no TPM: %w", keyring.ErrUnavailable)
	}
	return c.store.TPM.Unseal(ctx, value, s.sealed)
}

func (c *collection) AddSlot(ctx context.Context, cr keyring.Credential) (keyring.SlotInfo, secret.Bytes, error) {
	if err := c.open("AddSlot"); err != nil {
		return keyring.SlotInfo{}, secret.Bytes{}, err
	}
	return c.add(ctx, cr)
}

func (c *collection) add(ctx context.Context, cr keyring.Credential) (keyring.SlotInfo, secret.Bytes, error) {
	s, code, err := c.make(ctx, cr)
	if err != nil {
		return keyring.SlotInfo{}, secret.Bytes{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	s.info.ID = strconv.Itoa(c.last)
	c.slots = append(c.slots, s)
	return s.info, code, nil
}

func (c *collection) make(ctx context.Context, cr keyring.Credential) (slot, secret.Bytes, error) {
	s := slot{info: keyring.SlotInfo{Kind: cr.Kind, Created: time.Now()}}
	switch cr.Kind {
	case keyring.SlotPassphrase:
		if cr.Value.Len() == 0 {
			return slot{}, secret.Bytes{}, fmt.Errorf("an empty passphrase: %w", keyring.ErrUnsupported)
		}
		s.value = cr.Value.Clone()
		return s, secret.Bytes{}, nil
	case keyring.SlotRecovery:
		s.value = secret.From([]byte(rand.Text()))
		return s, s.value.Clone(), nil
	case keyring.SlotTPM:
		if c.store.TPM == nil {
			return slot{}, secret.Bytes{}, fmt.Errorf("there is no TPM: %w", keyring.ErrUnavailable)
		}
		c.mu.Lock()
		key := c.key.Clone()
		c.mu.Unlock()
		defer key.Wipe()
		var err error
		s.info.PIN, s.info.PCRs = cr.Value.Len() > 0, cr.PCRs
		s.sealed, err = c.store.TPM.Seal(ctx, cr.Value, key)
		return s, secret.Bytes{}, err
	}
	return slot{}, secret.Bytes{}, fmt.Errorf("slot of kind %q: %w", cr.Kind, keyring.ErrUnsupported)
}

func (c *collection) RemoveSlot(id string) error {
	if err := c.there("RemoveSlot"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.indexLocked(id)
	switch {
	case i < 0:
		return fmt.Errorf("slot %s: %w", id, keyring.ErrNotFound)
	case len(c.slots) == 1:
		return fmt.Errorf("the last slot: %w", keyring.ErrUnsupported)
	}
	c.slots = slices.Delete(c.slots, i, i+1)
	return nil
}

func (c *collection) ReplaceSlot(ctx context.Context, id string, cr keyring.Credential) (keyring.SlotInfo, error) {
	if err := c.open("ReplaceSlot"); err != nil {
		return keyring.SlotInfo{}, err
	}
	if cr.Kind == keyring.SlotRecovery {
		return keyring.SlotInfo{}, errors.Join(keyring.ErrUnsupported, errors.New("a recovery code is not chosen"))
	}
	s, _, err := c.make(ctx, cr)
	if err != nil {
		return keyring.SlotInfo{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.indexLocked(id)
	if i < 0 {
		return keyring.SlotInfo{}, fmt.Errorf("slot %s: %w", id, keyring.ErrNotFound)
	}
	s.info.ID = id
	c.slots[i] = s
	return s.info, nil
}

func (c *collection) indexLocked(id string) int {
	return slices.IndexFunc(c.slots, func(s slot) bool { return s.info.ID == id })
}
