package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// A client may fail as often as it likes, but not fill the journal with it.
	journalBurst = 20
	journalEvery = time.Second
)

// A journal writes one line for each failed request and each change, and no more than
// journalBurst lines at once and one each journalEvery in the long run. Lines
// below Info are neither counted nor held back.
type journal struct {
	log *slog.Logger

	mu      sync.Mutex
	used    int       // lines of the burst that are spent
	since   time.Time // when used was last made less
	dropped int       // lines held back since the last one
}

// line writes msg, unless too many were written just now.
func (j *journal) line(ctx context.Context, level slog.Level, msg string, attrs ...slog.Attr) {
	if !j.log.Enabled(ctx, level) {
		return
	}
	if level >= slog.LevelInfo {
		dropped, ok := j.admit(time.Now())
		if !ok {
			return
		}
		if dropped > 0 {
			attrs = append(attrs, slog.Int("dropped", dropped))
		}
	}
	j.log.LogAttrs(ctx, level, msg, attrs...)
}

// admit reports whether a line may be written now, and if so how many were
// held back before it.
func (j *journal) admit(now time.Time) (dropped int, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if free := int(now.Sub(j.since) / journalEvery); free > 0 {
		j.used = max(0, j.used-free)
		j.since = now
	}
	if j.used >= journalBurst {
		j.dropped++
		return 0, false
	}
	j.used++
	dropped, j.dropped = j.dropped, 0
	return dropped, true
}

// event writes a line about something that a client changed.
func (j *journal) event(ctx context.Context, msg, caller, key string) {
	attrs := []slog.Attr{slog.String("caller", caller)}
	if key != "" {
		attrs = append(attrs, slog.String("key", key))
	}
	j.line(ctx, slog.LevelInfo, msg, attrs...)
}
