package keyring

import (
	"context"
	"log/slog"
	"time"
)

// A journal has room for what people do and what goes wrong, not for a program
// that has run wild and pushes everything else out of it: of each program and
// key it gets maxLines in a period, and then one line with the number of uses
// that it did not get. More than maxAskers at a time count as one.
const (
	maxLines  = 60
	period    = time.Minute
	maxAskers = 256
)

// pages are the lines of one asker in one period.
type pages struct {
	lines           int
	used, unused    int // not in the journal
	subject, caller string
}

// log writes down what came of a use.
func (g *Gate) log(u Use, err error) {
	if g.Log == nil || !g.fits(u, err) {
		return
	}
	attrs := append(make([]slog.Attr, 0, 5), slog.String("caller", u.Caller.String()), slog.String("key", u.Subject))
	if u.Host != "" {
		attrs = append(attrs, slog.String("host", u.Host))
	}
	if u.Through != "" {
		attrs = append(attrs, slog.String("through", u.Through))
	}
	message := "key used"
	if err != nil {
		message = "key not used"
		attrs = append(attrs, slog.String("err", err.Error()))
	}
	g.Log.LogAttrs(context.Background(), slog.LevelInfo, message, attrs...)
}

// fits reports whether there is room for one more line, and counts it.
func (g *Gate) fits(u Use, err error) bool {
	who := asker{u.ID, u.Caller.Program}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.journal[who]
	if p == nil && len(g.journal) >= maxAskers {
		who = asker{}
		p = g.journal[who]
	}
	if p == nil {
		p = &pages{subject: u.Subject, caller: u.Caller.String()}
		if who == (asker{}) {
			p.subject, p.caller = "several keys", "several programs"
		}
		g.journal[who] = p
		time.AfterFunc(period, func() { g.turnPage(who) })
	}
	if p.lines++; p.lines <= maxLines {
		return true
	}
	if err == nil {
		p.used++
	} else {
		p.unused++
	}
	return false
}

// turnPage ends an asker's period.
func (g *Gate) turnPage(who asker) {
	g.mu.Lock()
	p := g.journal[who]
	delete(g.journal, who)
	g.mu.Unlock()
	if p.used+p.unused > 0 {
		g.Log.Info("key used more often than is logged", "caller", p.caller, "key", p.subject, "used", p.used, "refused", p.unused)
	}
}
