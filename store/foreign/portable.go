package foreign

import (
	"crypto/aes"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"github.com/keyringd/keyringd/internal/secret"
)

const (
	portableKey = 16 // bytes; both for AES-128 and for the MACs
	leastItem   = 24 // an unencrypted item of nothing has more
	leastEntry  = 2  // an empty name's NUL, and where it ends; the value may be nothing
	// attributeContentType is where oo7 keeps an item's content type.
	attributeContentType = "xdg:content-type"
)

// A portable is a keyring of version 1 as it lies in its file: a GVariant
// (u salt size, ay salt, u iterations, t modified, u usage, a(a{say}ay) items).
type portable struct {
	salt       []byte
	iterations uint64
	modified   uint64
	items      []portableItem
}

// A portableItem has its attributes' names with the MACs of their values, or in
// an unencrypted keyring the values; and a GVariant (a{ss} attributes, s label,
// t created, t modified, ay secret), encrypted or not.
type portableItem struct {
	hashed map[string][]byte
	blob   []byte
}

func parsePortable(data []byte) (*portable, error) {
	f := &portable{}
	t := tuple(data[len(magic)+2:], 1)
	saltSize := t.fixed(4)
	f.salt = t.member()
	f.iterations, f.modified = t.fixed(4), t.fixed(8)
	t.fixed(4) // how often it was written
	items, ok := elements(t.last(), leastItem)
	switch {
	case t.bad || !ok:
		return nil, fmt.Errorf("it ends too early: %w", ErrFormat)
	case saltSize != uint64(len(f.salt)):
		return nil, fmt.Errorf("%d bytes of salt that should be %d: %w", len(f.salt), saltSize, ErrFormat)
	case f.iterations == 0 || f.iterations > maxIterations:
		return nil, fmt.Errorf("%d hash iterations: %w", f.iterations, ErrFormat)
	}
	for _, data := range items {
		i, ok := parsePortableItem(data)
		if !ok {
			i = portableItem{} // which nobody can open; the others are none the worse
		}
		f.items = append(f.items, i)
	}
	return f, nil
}

func parsePortableItem(data []byte) (portableItem, bool) {
	i := portableItem{hashed: map[string][]byte{}}
	t := tuple(data, 1)
	entries, ok := elements(t.member(), leastEntry)
	i.blob = t.last()
	if t.bad || !ok {
		return i, false
	}
	for _, e := range entries {
		t := tuple(e, 1)
		name, ok := text(t.member())
		value := t.last()
		if t.bad || !ok {
			return i, false
		}
		i.hashed[name] = value
	}
	return i, true
}

// encrypted reports whether a password is needed. Nothing in the file says so:
// an unencrypted item is one that can be read as it is.
func (f *portable) encrypted() bool {
	for _, i := range f.items {
		if item, ok := i.plain(); ok {
			item.Secret.Wipe()
			return false
		}
	}
	return len(f.items) > 0
}

// plain reads an item that is not encrypted. Its attributes must be those that
// are beside it: what is encrypted does not become an item by chance.
func (i portableItem) plain() (Item, bool) {
	item, ok := readPortableItem(i.blob)
	if ok {
		ok = i.matches(item, func(name, value string) []byte { return []byte(value) })
	}
	if !ok {
		item.Secret.Wipe()
		return Item{}, false
	}
	return item.finish(), true
}

// open decrypts an item.
func (i portableItem) open(key []byte) (Item, bool) {
	n := len(i.blob) - sha256.Size - aes.BlockSize
	if n < aes.BlockSize || n%aes.BlockSize != 0 {
		return Item{}, false
	}
	if !hmac.Equal(mac(key, i.blob[:n+aes.BlockSize]), i.blob[n+aes.BlockSize:]) {
		return Item{}, false
	}
	var item Item
	ok := false
	plain := secret.New(n)
	defer plain.Wipe()
	plain.Use(func(p []byte) {
		copy(p, i.blob[:n])
		if decrypt(p, key, i.blob[n:n+aes.BlockSize]) != nil {
			return
		}
		pad := int(p[n-1]) // PKCS #7; the MAC has been checked, so that it tells nobody anything
		if pad == 0 || pad > aes.BlockSize {
			return
		}
		item, ok = readPortableItem(p[:n-pad])
	})
	if ok {
		ok = i.matches(item, func(_, value string) []byte { return mac(key, []byte(value)) })
	}
	if !ok {
		item.Secret.Wipe()
		return Item{}, false
	}
	return item.finish(), true
}

// matches reports whether the attributes beside an item are its own.
func (i portableItem) matches(item Item, as func(name, value string) []byte) bool {
	for name, value := range i.hashed {
		own, ok := item.Attributes[name]
		if !ok || subtle.ConstantTimeCompare(as(name, own), value) != 1 {
			return false
		}
	}
	return true
}

// readPortableItem reads an item in clear.
func readPortableItem(p []byte) (Item, bool) {
	i := Item{Attributes: map[string]string{}}
	t := tuple(p, 2)
	entries, ok := elements(t.member(), leastEntry)
	label, okLabel := text(t.member())
	created, modified := t.fixed(8), t.fixed(8)
	held := t.last()
	if t.bad || !ok || !okLabel {
		return Item{}, false
	}
	for _, e := range entries {
		t := tuple(e, 1)
		name, ok := text(t.member())
		value, okValue := text(t.last())
		if t.bad || !ok || !okValue {
			return Item{}, false
		}
		i.Attributes[name] = value
	}
	i.Label, i.Created, i.Modified = label, seconds(created), seconds(modified)
	i.Secret = secret.Copy(held)
	return i, true
}

// finish makes of oo7's attribute for the content type what it stands for.
func (i Item) finish() Item {
	i.ContentType = i.Attributes[attributeContentType]
	delete(i.Attributes, attributeContentType)
	if i.ContentType == "" {
		i.ContentType = contentType(i.Secret)
	}
	return i
}

func mac(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}

// readPortable reads a keyring of libsecret's file backend or of oo7. Each item
// is encrypted for itself, so that those that are well come back even if others
// are damaged.
func readPortable(data []byte, password secret.Bytes) (*Keyring, error) {
	f, err := parsePortable(data)
	if err != nil {
		return nil, err
	}
	k := &Keyring{Modified: seconds(f.modified)}
	if f.encrypted() {
		key, err := f.derive(password)
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
		key.Use(func(key []byte) {
			k.take(f.items, func(i portableItem) (Item, bool) { return i.open(key) })
		})
		if len(k.Items) == 0 {
			return nil, ErrPassword
		}
		return k, nil
	}
	k.take(f.items, portableItem.plain)
	return k, nil
}

// derive makes the key of a password.
func (f *portable) derive(password secret.Bytes) (secret.Bytes, error) {
	var key []byte
	var err error
	password.Use(func(p []byte) {
		// The standard library wants a string, which nobody can wipe: a copy of
		// the password stays until its memory is used again.
		key, err = pbkdf2.Key(sha256.New, string(p), f.salt, int(f.iterations), portableKey)
	})
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("derive the key: %w", err)
	}
	return secret.From(key), nil
}

// take adds the items that read can read.
func (k *Keyring) take(items []portableItem, read func(portableItem) (Item, bool)) {
	for n, i := range items {
		item, ok := read(i)
		if !ok {
			k.note("Item %d of %d is damaged or was stored with another password, and was left out.", n+1, len(items))
			continue
		}
		k.Items = append(k.Items, item)
	}
}
