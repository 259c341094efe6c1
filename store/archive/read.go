package archive

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/keyringd/keyringd/internal/secret"
)

// Read reads an archive. passphrase is called for one that is encrypted, once
// its header has been looked at; what it returns is wiped, and its error is
// returned. Errors wrap ErrFormat, ErrPassphrase, ErrDamaged, ErrTooLarge or
// what r said. The collections are the caller's to [Wipe]; there are none with
// an error, because half an archive looks like a whole one.
func Read(r io.Reader, passphrase func() (secret.Bytes, error)) ([]Collection, error) {
	in := bufio.NewReaderSize(r, sealedSize)
	content := buffer{}
	defer content.wipe()
	begin, err := in.Peek(len(magic))
	if err != nil && cutOff(err, nil) != nil {
		return nil, fmt.Errorf("read an archive: %w", err)
	}
	if string(begin) == magic {
		err = content.decrypt(in, passphrase)
	} else if bytes.HasPrefix(bytes.TrimLeft(begin, " \t\r\n\ufeff"), []byte("{")) {
		err = content.readAll(in)
	} else {
		err = ErrFormat
	}
	if err != nil {
		return nil, fmt.Errorf("read an archive: %w", err)
	}
	var all []Collection
	content.held.Use(func(p []byte) { all, err = parse(p[:content.used]) })
	if err != nil {
		return nil, fmt.Errorf("read an archive: %w", err)
	}
	return all, nil
}

// A buffer grows in memory for secrets.
type buffer struct {
	held secret.Bytes
	used int
}

func (b *buffer) wipe() { b.held.Wipe() }

// room makes room for n more bytes.
func (b *buffer) room(n int) {
	if b.used+n <= b.held.Len() {
		return
	}
	larger := secret.New(max(2*b.held.Len(), b.used+n))
	larger.Use(func(p []byte) {
		b.held.Use(func(q []byte) { copy(p, q[:b.used]) })
	})
	b.held.Wipe()
	b.held = larger
}

// fill adds what next puts into the room that it is given.
func (b *buffer) fill(room int, next func([]byte) (int, error)) error {
	b.room(room)
	var n int
	var err error
	b.held.Use(func(p []byte) { n, err = next(p[b.used : b.used+room]) })
	if b.used += n; b.used > maxContent {
		return ErrTooLarge
	}
	return err
}

func (b *buffer) decrypt(r *bufio.Reader, passphrase func() (secret.Bytes, error)) error {
	o, err := newOpener(r, passphrase)
	for err == nil {
		err = b.fill(sealedSize, o.next)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

func (b *buffer) readAll(r io.Reader) error {
	var err error
	for err == nil {
		err = b.fill(chunkSize, r.Read)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// The JSON of an archive. encoding/json hands the bytes of a value to
// UnmarshalJSON where they lie, so that secrets never become strings.
type (
	contentJSON struct {
		Format      string           `json:"format"`
		Version     int              `json:"version"`
		Collections []collectionJSON `json:"collections"`
	}
	collectionJSON struct {
		ID       string     `json:"id"`
		Aliases  []string   `json:"aliases"`
		Label    string     `json:"label"`
		Created  time.Time  `json:"created"`
		Modified time.Time  `json:"modified"`
		Items    []itemJSON `json:"items"`
	}
	itemJSON struct {
		Label       string            `json:"label"`
		Attributes  map[string]string `json:"attributes"`
		ContentType string            `json:"contentType"`
		Created     time.Time         `json:"created"`
		Modified    time.Time         `json:"modified"`
		Text        *textSecret       `json:"secret"`
		Base64      *base64Secret     `json:"secretBase64"`
	}
	textSecret   struct{ secret.Bytes }
	base64Secret struct{ secret.Bytes }
)

func (s *textSecret) UnmarshalJSON(p []byte) error {
	var err error
	s.Wipe() // said twice: the last counts, as everywhere in JSON
	s.Bytes, err = unquote(p)
	return err
}

func (s *base64Secret) UnmarshalJSON(p []byte) error {
	s.Wipe()
	quoted, err := unquote(p)
	if err != nil {
		return err
	}
	defer quoted.Wipe()
	plain := secret.New(base64.StdEncoding.DecodedLen(quoted.Len()))
	n := 0
	quoted.Use(func(q []byte) {
		plain.Use(func(p []byte) { n, err = base64.StdEncoding.Strict().Decode(p, q) })
	})
	plain.Use(func(p []byte) { s.Bytes = secret.Copy(p[:n]) })
	plain.Wipe()
	if err != nil {
		return errors.New("secretBase64 is no base64") // the error says where, which is too much
	}
	return nil
}

// parse reads the JSON.
func parse(p []byte) (all []Collection, err error) {
	p = bytes.TrimPrefix(p, []byte("\ufeff"))
	if !utf8.Valid(p) {
		return nil, fmt.Errorf("it is no UTF-8: %w", ErrFormat)
	}
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if json.Unmarshal(p, &head) != nil || head.Format != contentFormat {
		return nil, ErrFormat
	}
	if head.Version != contentVersion {
		return nil, fmt.Errorf("its contents have version %d: %w", head.Version, ErrFormat)
	}
	var content contentJSON
	defer func() {
		if err != nil {
			content.wipe()
		}
	}()
	if err := json.Unmarshal(p, &content); err != nil {
		return nil, fmt.Errorf("%w: %w", explain(err), ErrFormat)
	}
	all = make([]Collection, 0, len(content.Collections))
	for _, c := range content.Collections {
		items := make([]Item, 0, len(c.Items))
		for n, i := range c.Items {
			held, err := i.secret()
			if err != nil {
				return nil, fmt.Errorf("item %d of %q: %w: %w", n+1, c.Label, err, ErrFormat)
			}
			items = append(items, Item{Label: i.Label, Attributes: i.Attributes, ContentType: i.ContentType,
				Secret: held, Created: i.Created.UTC(), Modified: i.Modified.UTC()})
		}
		all = append(all, Collection{ID: c.ID, Aliases: c.Aliases, Label: c.Label,
			Created: c.Created.UTC(), Modified: c.Modified.UTC(), Items: items})
	}
	return all, nil
}

// secret returns an item's secret, of which there must be one.
func (i *itemJSON) secret() (secret.Bytes, error) {
	switch {
	case i.Text != nil && i.Base64 == nil:
		return i.Text.Bytes, nil
	case i.Text == nil && i.Base64 != nil:
		return i.Base64.Bytes, nil
	default:
		return secret.Bytes{}, errors.New("it needs either a secret or a secretBase64")
	}
}

func (c *contentJSON) wipe() {
	for _, c := range c.Collections {
		for _, i := range c.Items {
			if i.Text != nil {
				i.Text.Wipe()
			}
			if i.Base64 != nil {
				i.Base64.Wipe()
			}
		}
	}
}

// explain says where JSON went wrong without quoting it: it could be a secret.
func explain(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("no JSON at byte %d", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("%q is of another kind at byte %d", kind.Field, kind.Offset)
	default:
		return errors.New("something in it cannot be read")
	}
}
