package ask

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/keyringd/keyringd/internal/assuan"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

// maxReply bounds what the client may say to an inquiry: a sentence, or a
// passphrase.
const maxReply = 2048

// A helper asks the client on behalf of the window, while its command runs.
type helper struct {
	mu   sync.Mutex // one inquiry at a time
	r    *assuan.Request
	done bool
}

// offer returns those helpers that the client announced.
func (h *helper) offer(q Question, enforce bool) Helpers {
	var o Helpers
	if q.Kind != prompt.Passphrase && q.Kind != prompt.NewPassphrase {
		return o
	}
	if q.QualityLabel != "" {
		o.Quality = h.quality
	}
	if q.Generate != "" {
		o.Generate = func() (secret.Bytes, error) { return h.inquire("GENPIN", secret.Bytes{}) }
	}
	if enforce && q.Kind == prompt.NewPassphrase {
		o.Check = h.check
	}
	return o
}

func (h *helper) inquire(keyword string, about secret.Bytes) (secret.Bytes, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return secret.Bytes{}, fmt.Errorf("inquiry after the answer: %w", assuan.ErrProtocol)
	}
	return h.r.InquireAbout(keyword, about, maxReply)
}

// close waits for an inquiry that is on its way, and refuses more.
func (h *helper) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.done = true
}

func (h *helper) quality(p secret.Bytes) (int, error) {
	text, err := h.text("QUALITY", p)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("quality is not a number: %w", assuan.ErrProtocol)
	}
	return max(-100, min(n, 100)), nil
}

func (h *helper) check(p secret.Bytes) (string, error) { return h.text("CHECKPIN", p) }

// text is for replies that are not secret.
func (h *helper) text(keyword string, about secret.Bytes) (string, error) {
	b, err := h.inquire(keyword, about)
	if err != nil {
		return "", err
	}
	defer b.Wipe()
	var s string
	b.Use(func(p []byte) { s = string(p) })
	return s, nil
}
