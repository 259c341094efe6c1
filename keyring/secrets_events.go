package keyring

import (
	"context"
	"time"
)

// A SecretsEventKind says what has changed.
type SecretsEventKind int

const (
	// Everything may have changed: events were lost because they came faster
	// than they were received. Who sees it looks at everything again.
	Everything SecretsEventKind = iota
	CollectionCreated
	CollectionDeleted
	// CollectionChanged also stands for locking and unlocking, by which all of
	// its items change.
	CollectionChanged
	ItemCreated
	ItemDeleted
	ItemChanged
)

// A SecretsEvent tells of a change, after it was made. What it tells of may have
// changed again by the time it is received.
type SecretsEvent struct {
	Kind       SecretsEventKind
	Collection string
	Item       string // of ItemCreated, ItemDeleted and ItemChanged
	Caller     Caller // who made the change
}

// maxEvents is how many events wait for one receiver: more than a client's
// import of a whole keyring makes while a bus is slow, and little memory.
const maxEvents = 256

// A watcher is one receiver. Only who holds Secrets.mu sends to it.
type watcher struct{ events chan SecretsEvent }

// Watch returns a channel that receives every change from now on, in the order
// in which they were made known. A receiver that falls behind by many events
// gets one of kind [Everything] in place of those. The channel is closed when
// ctx ends.
func (s *Secrets) Watch(ctx context.Context) <-chan SecretsEvent {
	w := &watcher{make(chan SecretsEvent, maxEvents)}
	s.mu.Lock()
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
		close(w.events)
	})
	return w.events
}

// tell sends an event to all who watch, and never waits for them.
func (s *Secrets) tell(kind SecretsEventKind, c Caller, collection, item string) {
	e := SecretsEvent{kind, collection, item, c}
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w.events <- e:
			continue
		default:
		}
		// Nobody else sends, so that there is room for one once some are taken
		// out, whether by us or by the receiver.
		w.drain()
		w.events <- SecretsEvent{Kind: Everything}
	}
}

// drain takes out what waits.
func (w *watcher) drain() {
	for {
		select {
		case <-w.events:
		default:
			return
		}
	}
}

// lines are the log lines about one thing in one period.
type lines struct {
	since  time.Time
	unsaid int
}

// seldom reports whether a line about something fits into the log, which gets
// one in a period; unsaid is how many did not since the last.
func (s *Secrets) seldom(about string) (unsaid int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lines[about]
	if l != nil && age(l.since) < period {
		l.unsaid++
		return 0, false
	}
	if l != nil {
		unsaid = l.unsaid
	} else if len(s.lines) >= maxAskers {
		for other, old := range s.lines {
			if age(old.since) >= period {
				delete(s.lines, other)
			}
		}
		if len(s.lines) >= maxAskers {
			return 0, false
		}
	}
	s.lines[about] = &lines{since: time.Now()}
	return unsaid, true
}
