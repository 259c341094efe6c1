package archive

import (
	"errors"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
)

var (
	// ErrFormat says that something is no archive of ours, or none of a version
	// that is known.
	ErrFormat = errors.New("not a keyringd archive that can be read")
	// ErrPassphrase says that the passphrase is wrong.
	ErrPassphrase = errors.New("wrong passphrase")
	// ErrDamaged says that the passphrase is right but the archive is cut off or
	// changed.
	ErrDamaged = errors.New("the archive is damaged or cut off")
	// ErrTooLarge says that there is more than an archive holds.
	ErrTooLarge = errors.New("too much for one archive")
)

// maxContent is how much JSON an archive may have, so that reading one takes a
// memory that can be had, even if it is made of nothing but empty items. 10,000
// items of a password each are 4 MB.
const maxContent = 64 << 20

// A Collection is a collection on its way. Times are kept to the nanosecond, in
// UTC; the zero time is none.
type Collection struct {
	ID      string   // what it went by, such as "login"
	Aliases []string // further names
	Label   string
	Created time.Time
	// Modified is when it or one of its items last changed.
	Modified time.Time
	Items    []Item
}

// An Item is an item on its way. Label, attributes and content type are valid
// UTF-8.
type Item struct {
	Label       string
	Attributes  map[string]string
	ContentType string
	Secret      secret.Bytes
	Created     time.Time
	Modified    time.Time
}

// Wipe wipes the secrets of all items.
func Wipe(collections []Collection) {
	for _, c := range collections {
		for _, i := range c.Items {
			i.Secret.Wipe()
		}
	}
}
