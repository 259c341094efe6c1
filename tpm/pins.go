package tpm

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/renameio/v2"
)

// pins are the names of the parents that auth values were sent to: each is
// trusted when it is first seen, and must be the same ever after. Otherwise
// somebody between us and the TPM could offer a key of his own and read along.
type pins struct {
	path  string // "" to remember in memory only
	scope string // which TPM: where the user said it is
	log   *slog.Logger

	// mu guards what was read and the file, which is small and read once.
	mu    sync.Mutex
	known []pin // nil until read; the oldest first
}

// A pin is one trusted name. A machine may have had several TPMs, the software
// ones of an afternoon among them, and each is known by where it is.
type pin struct {
	id, scope string
	name      []byte
}

// maxPinFile caps what is read: some hundred bytes are usual. Of maxPins, the
// oldest makes way.
const (
	maxPinFile = 64 << 10
	maxPins    = 100
)

// check returns nil if p has the name it had before or is new. It wraps
// ErrWrongTPM if p has another name.
func (n *pins) check(p *parent) error {
	if p.id.handle == uint32(tpm2.TPMRHNull) {
		return nil // a new one after every reset: there is nothing to compare with
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.read(); err != nil {
		return err
	}
	id := p.id.String()
	for _, k := range n.known {
		if k.id != id || k.scope != n.scope {
			continue
		}
		if bytes.Equal(k.name, p.name) {
			return nil
		}
		return fmt.Errorf("%w: its storage key %s is %s, and was %s when a PIN was last sent to it; "+
			"if the TPM was cleared or replaced, remove the line %s from %s, otherwise somebody may be listening",
			ErrWrongTPM, id, short(p.name), short(k.name), id, n.where())
	}
	n.known = append(n.known, pin{id, n.scope, bytes.Clone(p.name)})
	n.known = n.known[max(0, len(n.known)-maxPins):]
	if err := n.write(); err != nil {
		// On a full disk or a read-only home one can still log in; what is lost is
		// that the next start compares.
		n.log.Warn("the name of the TPM's storage key is only remembered until the end", "err", err)
	}
	return nil
}

func short(name []byte) string {
	s := hex.EncodeToString(name)
	return s[:min(len(s), 20)] + "…"
}

func (n *pins) where() string {
	if n.path == "" {
		return "memory by starting again"
	}
	return n.path
}

func (n *pins) read() error {
	if n.known != nil {
		return nil
	}
	known := []pin{}
	if n.path != "" {
		b, err := os.ReadFile(n.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: read the names of trusted storage keys: %w", ErrUnavailable, err)
		}
		if len(b) > maxPinFile {
			return fmt.Errorf("%w: %s is too large for what it should be", ErrUnavailable, n.path)
		}
		if known, err = parsePins(b); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrUnavailable, n.path, err)
		}
	}
	n.known = known
	return nil
}

// parsePins reads lines of a parent, its name in hex, and the TPM. A file that
// is not understood is an error: to take it for empty would be to trust anyone.
func parsePins(b []byte) ([]pin, error) {
	known := []pin{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for i := 1; lines.Scan(); i++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, rest, _ := strings.Cut(line, " ")
		text, scope, ok := strings.Cut(rest, " ")
		name, err := hex.DecodeString(text)
		if !ok || err != nil || len(name) < 4 {
			return nil, fmt.Errorf("line %d is not a parent, its name and a TPM", i)
		}
		known = append(known, pin{id, scope, name})
	}
	return known, lines.Err()
}

const pinHeader = `# The TPM's storage keys that PINs were sent to, and their names. A key with
# another name is refused. Remove a line after the TPM was cleared or replaced.
`

func (n *pins) write() error {
	if n.path == "" {
		return nil
	}
	var b strings.Builder
	b.WriteString(pinHeader)
	for _, k := range n.known {
		fmt.Fprintf(&b, "%s %x %s\n", k.id, k.name, k.scope)
	}
	return renameio.WriteFile(n.path, []byte(b.String()), 0o600)
}
