package foreign

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
)

// The flags of an encrypted keyring.
const (
	flagLockIdle  = 1
	flagLockAfter = 2
)

// An encryptedItem is what an encrypted keyring says of an item in clear.
type encryptedItem struct {
	id, itemType uint32
}

// readEncrypted reads gnome-keyring's encrypted format, version 0
// (docs/file-format.txt there): a header and the items' types and hashed
// attributes in clear, then the items, encrypted as one.
func readEncrypted(data []byte, password secret.Bytes) (*Keyring, error) {
	k := &Keyring{}
	d := decoder{rest: data[len(magic)+4:]}
	k.Label = clean(string(d.str()))
	// The writer and the reader disagree about which of these comes first.
	k.Created, k.Modified = order(seconds(d.u64()), seconds(d.u64()))
	flags, timeout, iterations := d.u32(), d.u32(), d.u32()
	switch {
	case flags&flagLockIdle != 0:
		k.LockIdle = time.Duration(timeout) * time.Second
	case flags&flagLockAfter != 0:
		k.LockAfter = time.Duration(timeout) * time.Second
	}
	salt := d.take(8)
	d.take(4 * 4) // reserved

	n := d.count(3 * 4)
	clear := make([]encryptedItem, 0, n)
	for range n {
		clear = append(clear, encryptedItem{id: d.u32(), itemType: d.u32()})
		d.attributes() // hashed
	}
	sealed := d.bytes()
	switch {
	case d.bad:
		return nil, fmt.Errorf("it ends too early: %w", ErrFormat)
	case len(sealed) < md5.Size || len(sealed)%aes.BlockSize != 0:
		return nil, fmt.Errorf("%d encrypted bytes: %w", len(sealed), ErrFormat)
	case iterations == 0 || iterations > maxIterations:
		return nil, fmt.Errorf("%d hash iterations: %w", iterations, ErrFormat)
	case len(d.rest) > 0:
		k.note("%d bytes after the end of the keyring were ignored.", len(d.rest))
	}

	plain := secret.New(len(sealed))
	defer plain.Wipe()
	key := stretch(password, salt, iterations)
	defer key.Wipe()
	var err error
	plain.Use(func(p []byte) {
		copy(p, sealed)
		key.Use(func(key []byte) { err = decrypt(p, key[:16], key[16:]) })
		if err != nil {
			return
		}
		sum := md5.Sum(p[md5.Size:])
		if subtle.ConstantTimeCompare(sum[:], p[:md5.Size]) != 1 {
			err = ErrPassword
			return
		}
		err = k.readItems(&decoder{rest: p[md5.Size:]}, clear)
	})
	if err != nil {
		k.Wipe()
		return nil, err
	}
	return k, nil
}

// readItems reads the decrypted items.
func (k *Keyring) readItems(d *decoder, clear []encryptedItem) error {
	for n, c := range clear {
		label, held := clean(string(d.str())), d.str()
		created, modified := seconds(d.u64()), seconds(d.u64())
		d.str() // reserved, as are the next four
		d.take(4 * 4)
		attributes := d.attributes()
		for range d.count(5 * 4) { // who might use the item; nobody ever looked at it
			d.u32()
			d.str()
			d.str()
			d.str()
			d.u32()
		}
		if d.bad {
			// The checksum was right, so that this is how it was written.
			k.note("%d of %d items of the keyring are not in it.", len(clear)-n, len(clear))
			if n == 0 {
				return fmt.Errorf("its items: %w", ErrFormat)
			}
			return nil
		}
		item := Item{Label: label, Attributes: attributes, Secret: secret.Copy(held), Created: created, Modified: modified}
		item.ContentType = contentType(item.Secret)
		item.setSchema(c.itemType)
		k.Items = append(k.Items, item)
	}
	return nil
}

// order sorts two times, of which either may be unknown.
func order(a, b time.Time) (created, modified time.Time) {
	switch {
	case a.IsZero():
		return b, b
	case b.IsZero():
		return a, a
	case b.Before(a):
		return b, a
	}
	return a, b
}

// stretch derives the AES key and the first block's mask from a password.
func stretch(password secret.Bytes, salt []byte, iterations uint32) secret.Bytes {
	key := secret.New(sha256.Size)
	key.Use(func(key []byte) {
		h := sha256.New()
		password.Use(func(p []byte) { h.Write(p) })
		h.Write(salt)
		h.Sum(key[:0])
		for range iterations - 1 {
			sum := sha256.Sum256(key)
			copy(key, sum[:])
		}
		h.Reset()
	})
	return key
}

// decrypt undoes AES-128 in CBC mode, in place.
func decrypt(p, key, iv []byte) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(p, p)
	return nil
}

// A decoder reads gnome-keyring's big-endian encoding. After the first fault
// everything it returns is empty.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.rest) {
		d.bad, d.rest = true, nil
		return nil
	}
	p := d.rest[:n]
	d.rest = d.rest[n:]
	return p
}

func (d *decoder) u32() uint32 {
	p := d.take(4)
	if d.bad {
		return 0
	}
	return binary.BigEndian.Uint32(p)
}

func (d *decoder) u64() uint64 { return uint64(d.u32())<<32 | uint64(d.u32()) }

// bytes reads a byte array.
func (d *decoder) bytes() []byte {
	n := d.u32()
	if uint64(n) > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	return d.take(int(n))
}

// str reads a string, which may be there or not.
func (d *decoder) str() []byte {
	if bytes.HasPrefix(d.rest, []byte{0xff, 0xff, 0xff, 0xff}) {
		d.take(4)
		return nil
	}
	return d.bytes()
}

// count reads how many things follow. It refuses a number that the rest has no
// room for, so that nobody makes room for it.
func (d *decoder) count(size int) int {
	n := d.u32()
	if uint64(n)*uint64(size) > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return 0
	}
	return int(n)
}

// attributes reads a list of names with strings or numbers.
func (d *decoder) attributes() map[string]string {
	n := d.count(3 * 4)
	m := make(map[string]string) // grows with what is there
	for range n {
		name := clean(string(d.str()))
		switch d.u32() {
		case 0:
			m[name] = clean(string(d.str()))
		case 1:
			m[name] = strconv.FormatUint(uint64(d.u32()), 10)
		default:
			d.bad, d.rest = true, nil
		}
		if d.bad {
			return nil
		}
	}
	return m
}
