package tpm

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strings"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/renameio/v2"
)

// pins are the names of the parents that auth values were sent to: each is
// trusted when it is first seen, and must be the same ever after. Otherwise
// somebody between us and the TPM could offer a key of his own and read along.
type pins struct {
	path string // "" to remember in memory only

	// mu guards the map and the file, which is small and read once.
	mu    sync.Mutex
	names map[string][]byte // nil until read
}

// maxPinFile caps what is read: some hundred bytes are usual.
const maxPinFile = 64 << 10

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
	if known, ok := n.names[id]; ok {
		if bytes.Equal(known, p.name) {
			return nil
		}
		return fmt.Errorf("%w: its storage key %s is %s, and was %s when a PIN was last sent to it; "+
			"if the TPM was cleared or replaced, remove the line %s from %s, otherwise somebody may be listening",
			ErrWrongTPM, id, short(p.name), short(known), id, n.where())
	}
	n.names[id] = bytes.Clone(p.name)
	if err := n.write(); err != nil {
		delete(n.names, id)
		return fmt.Errorf("%w: remember the TPM's storage key: %w", ErrUnavailable, err)
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
	if n.names != nil {
		return nil
	}
	names := make(map[string][]byte)
	if n.path != "" {
		b, err := os.ReadFile(n.path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: read the names of trusted storage keys: %w", ErrUnavailable, err)
		}
		if len(b) > maxPinFile {
			return fmt.Errorf("%w: %s is too large for what it should be", ErrUnavailable, n.path)
		}
		if err := parsePins(b, names); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrUnavailable, n.path, err)
		}
	}
	n.names = names
	return nil
}

// parsePins reads lines of a parent and its name in hex. A file that is not
// understood is an error: to take it for empty would be to trust anyone.
func parsePins(b []byte, names map[string][]byte) error {
	lines := bufio.NewScanner(bytes.NewReader(b))
	for i := 1; lines.Scan(); i++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, text, ok := strings.Cut(line, " ")
		name, err := hex.DecodeString(strings.TrimSpace(text))
		if !ok || err != nil || len(name) < 4 {
			return fmt.Errorf("line %d is not a parent and its name", i)
		}
		names[id] = name
	}
	return lines.Err()
}

const pinHeader = `# The TPM's storage keys that PINs were sent to, and their names. A key with
# another name is refused. Remove a line after the TPM was cleared or replaced.
`

func (n *pins) write() error {
	if n.path == "" {
		return nil
	}
	ids := make([]string, 0, len(n.names))
	for id := range n.names {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	var b strings.Builder
	b.WriteString(pinHeader)
	for _, id := range ids {
		fmt.Fprintf(&b, "%s %x\n", id, n.names[id])
	}
	return renameio.WriteFile(n.path, []byte(b.String()), 0o600)
}
