package archive

import (
	"bufio"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/keyringd/keyringd/internal/secret"
)

const (
	magic      = "keyringd archive"
	version    = 1
	saltSize   = 16
	headerSize = len(magic) + 1 + 1 + 4 + 4 + saltSize // without the check
	chunkSize  = 64 << 10
	sealedSize = chunkSize + chacha20poly1305.Overhead

	// An archive says itself what its passphrase costs. These bound what a
	// stranger's archive can ask of us: a gigabyte for some seconds.
	maxThreads = 16
	maxPasses  = 16
	maxMemory  = 1 << 20 // KiB
)

// params are what a try at the passphrase costs.
type params struct {
	threads        uint8
	passes, memory uint32 // memory in KiB
}

func (p params) fit() bool {
	return p.threads >= 1 && p.threads <= maxThreads && p.passes >= 1 && p.passes <= maxPasses &&
		p.memory >= 8*uint32(p.threads) && p.memory <= maxMemory
}

// header writes what stands before the check.
func (p params) header(salt []byte) []byte {
	h := append([]byte(magic), version, p.threads)
	h = binary.BigEndian.AppendUint32(h, p.passes)
	h = binary.BigEndian.AppendUint32(h, p.memory)
	return append(h, salt...)
}

func parseHeader(h []byte) (p params, salt []byte, err error) {
	switch {
	case len(h) != headerSize || string(h[:len(magic)]) != magic:
		return p, nil, ErrFormat
	case h[len(magic)] != version:
		return p, nil, fmt.Errorf("version %d: %w", h[len(magic)], ErrFormat)
	}
	rest := h[len(magic)+1:]
	p = params{rest[0], binary.BigEndian.Uint32(rest[1:]), binary.BigEndian.Uint32(rest[5:])}
	if !p.fit() {
		return p, nil, fmt.Errorf("a passphrase that costs %d KiB, %d times, %d at once: %w", p.memory, p.passes, p.threads, ErrFormat)
	}
	return p, rest[9:], nil
}

// open derives what a header and a passphrase open.
func (p params) open(passphrase secret.Bytes, salt, header []byte) (check []byte, aead cipher.AEAD, err error) {
	var key []byte
	passphrase.Use(func(pass []byte) {
		key = argon2.IDKey(pass, salt, p.passes, p.memory, p.threads, sha256.Size)
	})
	defer clear(key)
	checkKey, err := hkdf.Key(sha256.New, key, nil, "check", sha256.Size)
	if err != nil {
		return nil, nil, err
	}
	defer clear(checkKey)
	chunksKey, err := hkdf.Key(sha256.New, key, nil, "chunks", chacha20poly1305.KeySize)
	if err != nil {
		return nil, nil, err
	}
	defer clear(chunksKey)
	mac := hmac.New(sha256.New, checkKey)
	mac.Write(header)
	aead, err = chacha20poly1305.NewX(chunksKey)
	return mac.Sum(nil), aead, err
}

// nonce is that of chunk n.
func nonce(n uint64, last bool) []byte {
	b := make([]byte, chacha20poly1305.NonceSizeX)
	binary.BigEndian.PutUint64(b[len(b)-9:], n)
	if last {
		b[len(b)-1] = 1
	}
	return b
}

// A sealer encrypts what is written to it, chunk by chunk. A chunk is written
// when more is known to follow, so that the last one is never one too many.
type sealer struct {
	w    io.Writer
	aead cipher.AEAD
	n    uint64
	held secret.Bytes // of sealedSize: the chunk that is being filled
	used int
}

func newSealer(w io.Writer, passphrase secret.Bytes, p params) (*sealer, error) {
	salt := make([]byte, saltSize)
	if _, err := rand.Read(salt); err != nil {
		return nil, err
	}
	header := p.header(salt)
	check, aead, err := p.open(passphrase, salt, header)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(append(header, check...)); err != nil {
		return nil, err
	}
	return &sealer{w: w, aead: aead, held: secret.New(sealedSize)}, nil
}

func (s *sealer) wipe() { s.held.Wipe() }

// Write takes all of p or fails.
func (s *sealer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if s.used == chunkSize {
			if err := s.flush(false); err != nil {
				return 0, err
			}
		}
		s.held.Use(func(held []byte) {
			n := copy(held[s.used:chunkSize], rest)
			s.used += n
			rest = rest[n:]
		})
	}
	return len(p), nil
}

func (s *sealer) flush(last bool) error {
	var err error
	s.held.Use(func(held []byte) {
		_, err = s.w.Write(s.aead.Seal(held[:0], nonce(s.n, last), held[:s.used], nil))
	})
	s.n++
	s.used = 0
	return err
}

func (s *sealer) close() error { return s.flush(true) }

// An opener decrypts chunks. It hands out nothing that was not checked.
type opener struct {
	r    *bufio.Reader
	aead cipher.AEAD
	n    uint64
	last bool
}

// newOpener reads a header, and asks for the passphrase once that is one of
// ours.
func newOpener(r *bufio.Reader, passphrase func() (secret.Bytes, error)) (*opener, error) {
	h := make([]byte, headerSize+sha256.Size)
	if _, err := io.ReadFull(r, h); err != nil {
		return nil, cutOff(err, ErrFormat)
	}
	header, check := h[:headerSize], h[headerSize:]
	p, salt, err := parseHeader(header)
	if err != nil {
		return nil, err
	}
	pass, err := passphrase()
	if err != nil {
		return nil, err
	}
	defer pass.Wipe()
	want, aead, err := p.open(pass, salt, header)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(check, want) {
		return nil, ErrPassphrase
	}
	return &opener{r: r, aead: aead}, nil
}

// cutOff returns kind where a reader ended, and what it said where it failed.
func cutOff(err, kind error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return kind
	}
	return err
}

// next decrypts a chunk in place into sealed, of sealedSize, and returns how
// much it was; io.EOF after the last. Which one is the last is said by the
// file's end, and must be what the chunk was encrypted as.
func (o *opener) next(sealed []byte) (int, error) {
	if o.last {
		return 0, io.EOF
	}
	n, err := io.ReadFull(o.r, sealed)
	if err == nil {
		_, err = o.r.Peek(1)
	}
	if err != nil && cutOff(err, nil) != nil {
		return 0, err
	}
	o.last = err != nil
	if _, err := o.aead.Open(sealed[:0], nonce(o.n, o.last), sealed[:n], nil); err != nil {
		return 0, ErrDamaged
	}
	o.n++
	return n - chacha20poly1305.Overhead, nil
}
