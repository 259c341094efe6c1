package keyring_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

func TestFloodDoesNotFillTheJournal(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var out logtest.Buffer
		b.Log = slog.New(slog.NewTextHandler(&out, nil))
		wild := keyring.Use{ID: "k", Subject: "key k", Caller: keyring.Caller{Program: "/wild", Process: "wild (3)"}}
		for i := range 10_000 {
			do := b.nothing
			if i%2 == 0 {
				do = func(secret.Bytes) error { return keyring.ErrUnavailable }
			}
			_ = b.Use(t.Context(), wild, do)
		}
		b.mustUse(keyring.Use{ID: "k", Subject: "key k", Caller: git, Purpose: keyring.Purpose{Host: "h.example", Through: "gw"}}, b.nothing)
		said := func() []string { return strings.Split(strings.TrimSpace(out.String()), "\n") }
		lines := said()
		if n := len(lines); n > 100 || n < 10 {
			t.Errorf("%d lines for 10,000 uses", n)
		}
		if last := lines[len(lines)-1]; !strings.Contains(last, `msg="key used" caller="git (7)" key="key k" host=h.example through=gw`) {
			t.Errorf("somebody else's use: %s", last)
		}
		logged := len(lines) - 1
		time.Sleep(time.Minute)
		synctest.Wait()
		lines = said()
		want := fmt.Sprintf(`msg="key used more often than is logged" caller="wild (3)" key="key k" used=%d refused=%d`, 5000-logged/2, 5000-(logged+1)/2)
		if last := lines[len(lines)-1]; !strings.Contains(last, want) {
			t.Errorf("at the end: %s\nwant %s", last, want)
		}
		if len(lines) != logged+2 {
			t.Errorf("%d lines, want %d: who was not cut short is not mentioned", len(lines), logged+2)
		}
		// It may speak again.
		b.mustUse(wild, b.nothing)
		if n := len(said()); n != logged+3 {
			t.Errorf("%d lines, want %d", n, logged+3)
		}
		time.Sleep(time.Minute)
	})
}

// Nor do many who each use a key a few times.
func TestCrowdDoesNotFillTheJournal(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		var out logtest.Buffer
		b.Log = slog.New(slog.NewTextHandler(&out, nil))
		for i := range 10_000 {
			b.mustUse(keyring.Use{ID: "k", Subject: "key k", Caller: keyring.Caller{Program: fmt.Sprint("/wild", i)}}, b.nothing)
		}
		if n := strings.Count(out.String(), "\n"); n > 500 {
			t.Errorf("%d lines", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := out.String(); !strings.Contains(s, `caller="several programs" key="several keys"`) {
			t.Errorf("ends with %s", s[max(0, len(s)-300):])
		}
	})
}
