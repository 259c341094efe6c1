package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyringd/keyringd/internal/logtest"
	"github.com/keyringd/keyringd/keyring"
)

func TestEveryErrorHasAnOutcome(t *testing.T) {
	for _, err := range keyring.Errors {
		found := false
		for _, o := range outcomes {
			found = found || errors.Is(o.err, err)
		}
		if !found {
			t.Errorf("%v has no row in outcomes", err)
		}
		if reply, level := outcome(fmt.Errorf("a: %w", err)); reply != msgFailure || level != slog.LevelDebug {
			t.Errorf("%v: reply %d at %v", err, reply, level)
		}
	}
	if reply, level := outcome(errors.New("a defect")); reply != msgFailure || level != slog.LevelError {
		t.Errorf("an unknown error: reply %d at %v", reply, level)
	}
}

func TestJournalIsNotFlooded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out logtest.Buffer
		j := journal{log: slog.New(slog.NewTextHandler(&out, nil))}
		for range 10_000 {
			j.line(t.Context(), slog.LevelError, "something")
		}
		if n := strings.Count(out.String(), "\n"); n != journalBurst {
			t.Fatalf("%d lines at once, want %d", n, journalBurst)
		}
		time.Sleep(3 * journalEvery)
		for range 100 {
			j.line(t.Context(), slog.LevelError, "something")
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != journalBurst+3 {
			t.Fatalf("%d lines three intervals later, want %d", len(lines), journalBurst+3)
		}
		if want := fmt.Sprintf("dropped=%d", 10_000-journalBurst); !strings.Contains(lines[journalBurst], want) {
			t.Errorf("%q does not say %s", lines[journalBurst], want)
		}
	})
}
