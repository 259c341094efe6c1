package pkcs11

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// journalEvery is how often a line above Info may be written: a client may make
// us fail as often as it likes, but not fill the journal with it.
const journalEvery = time.Second

// A journal writes lines and holds back those that come too fast.
type journal struct {
	log *slog.Logger

	mu      sync.Mutex
	last    time.Time
	dropped int
}

// line writes msg, unless another was written just now. Lines below Info are
// neither counted nor held back.
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

// admit reports whether a line may be written now, and how many were held back
// before it.
func (j *journal) admit(now time.Time) (dropped int, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.last.IsZero() && now.Sub(j.last) < journalEvery {
		j.dropped++
		return 0, false
	}
	dropped, j.dropped, j.last = j.dropped, 0, now
	return dropped, true
}
