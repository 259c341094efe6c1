package keyring

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/prompt"
)

const (
	defaultRemember = 10 * time.Minute
	defaultMaxTries = 3

	// maxWithheld is how often a key may hand a value back unspent in one use:
	// once because nobody had looked at its counter, once because the counter
	// moved while the user was being asked.
	maxWithheld = 3
)

// A Gate stands before every use of a key or a locked collection: it confirms,
// obtains the authorization value, remembers it for a while, and stops after
// MaxTries wrong ones, well before the TPM would lock everybody out.
//
// The fields are set before the first Use. All methods may be called
// concurrently. No lock is held while a question is open or a key is at work,
// so that one use never holds up another that does not need the same answer.
type Gate struct {
	// Remember is how long an answer stands, counted from when it was given and
	// not from when it last served: otherwise a program that signs every minute
	// would keep a PIN in memory for ever. 0: nothing is remembered, and each
	// use asks.
	Remember time.Duration
	// MaxTries is how many wrong values one Use may spend; less than 1 means 3.
	MaxTries int
	// ConfirmForwarded makes each use that comes from another machine want the
	// user's permission, also of a key that is else used without a question.
	ConfirmForwarded bool
	// Log gets one line for each use, or for many where a program has run wild;
	// nil: none.
	Log *slog.Logger
	// Notify, if set, is told of each use when it is over, with what came of it.
	// It is called on the goroutine of the use, without locks, and returns soon.
	// It shows what a person can take in: a program may use a key a thousand
	// times a second.
	Notify func(u Use, err error)

	prompter prompt.Prompter
	changed  atomic.Pointer[time.Duration] // what Remember is now; nil: as it was set

	mu        sync.Mutex
	values    map[string]*value // by Use.ID
	approvals map[approvalKey]Approval
	approved  uint64                // the last Approval.ID given out
	turns     map[question]*turn    // the questions that are open and that others may wait for
	streaks   map[asker]*streak     // questions that nobody answered
	counters  map[string]*counter   // by Tries.Counter
	running   map[*attempt]struct{} // so that Forget reaches values on their way
	journal   map[asker]*pages
	history   []Past // a ring
	oldest    int    // in history, once it is full
}

// NewGate returns a Gate that asks through p and remembers for ten minutes. p
// may be nil where nobody can be asked.
func NewGate(p prompt.Prompter) *Gate {
	return &Gate{
		Remember:  defaultRemember,
		MaxTries:  defaultMaxTries,
		prompter:  p,
		values:    map[string]*value{},
		approvals: map[approvalKey]Approval{},
		turns:     map[question]*turn{},
		streaks:   map[asker]*streak{},
		counters:  map[string]*counter{},
		running:   map[*attempt]struct{}{},
		journal:   map[asker]*pages{},
	}
}

// SetRemember changes Remember while the Gate is in use. What is remembered
// already goes when its time is over by the new measure.
func (g *Gate) SetRemember(d time.Duration) { g.changed.Store(&d) }

// Remembering is what Remember is now.
func (g *Gate) Remembering() time.Duration {
	if d := g.changed.Load(); d != nil {
		return *d
	}
	return g.Remember
}

// A Use is one use of something that is protected: a key, a collection.
type Use struct {
	ID        string  // what values and approvals are remembered for; a key's is KeyID.String()
	Subject   string  // what the user calls it
	NeedsAuth bool    // it wants an authorization value
	Confirm   bool    // it wants the user's permission
	PIN       bool    // the user calls the value a PIN, not a passphrase
	Caller    Caller  // who wants it
	Reason    string  // what for, as the user is told; may be empty
	Scope     string  // what an approval is remembered for, beside ID and program; may be empty
	Guard     Guarded // the counter of wrong tries; nil: none
	Forget    func()  // called when a value that it worked with is forgotten; nil: nothing to do
	Once      bool    // the value is used and wiped: never remembered, never one that was
	Purpose

	// Fingerprint is the key's, as ssh-keygen -l prints it; "" for what is no key.
	Fingerprint string

	// Automatic is called after do has succeeded, when the user wishes to be
	// asked no more; see also [Gate.Choose]. nil: that is not offered.
	Automatic func()
	// Recall fetches a value that is kept somewhere safe. It is called at most
	// once in a Use, when nothing is remembered and before the user is asked; it
	// asks nobody itself. What it returns is the Gate's to wipe, and is used like
	// a remembered value: one that is wrong costs the user no try, unless the
	// device counts it. nil: there is no such place, and none for Once.
	Recall func(ctx context.Context) (secret.Bytes, bool)
	// Keep puts away a value that the user has typed, borrowed, for Recall to
	// find. It is called after do has succeeded, when the user wishes to be asked
	// no more. nil: that is not offered.
	Keep func(ctx context.Context, auth secret.Bytes)
}

// A Purpose is what a use is for, as far as that is known. It is for the user's
// eyes, and sanitised.
type Purpose struct {
	Host        string // "git.example.org", or the host key's fingerprint
	HostWarning string // "not verified", with the reason; "": the name belongs to the host key
	Through     string // the hosts that the asker's connection is forwarded through
	Forwarded   bool   // the asker is on another machine: asked each time, and no approval is left
}

// Use calls do once everything that u asks for is granted, and returns what do
// returned. do gets the authorization value, empty unless u.NeedsAuth, on loan.
//
// Where u.Confirm is set the user is asked for permission first, unless the
// same program was allowed the same thing (ID and Scope) for a time that the
// user chose, and that is not over; a program that is not known is asked about
// each time.
//
// For a use that comes from another machine, u.Forwarded, an earlier answer is
// not enough, and none is left behind: it asks for the value, or, where that is
// remembered, for permission to use it.
//
// do is called again with another value when it returns ErrAuthFailed, and
// only then is the user asked again. Its value is remembered only after do
// succeeded with it. Uses that need the same value wait for one answer. The
// last try of a guarded device is never spent without the user's explicit
// permission, and not at all after wrong answers; see [LockoutError].
//
// Errors are do's, ctx's, or wrap ErrDenied (the user said no, or has not
// answered twice in a row), ErrAuthFailed (MaxTries wrong values),
// ErrLockedOut, or ErrUnavailable (nobody can be asked).
func (g *Gate) Use(ctx context.Context, u Use, do func(auth secret.Bytes) error) (err error) {
	// What is reported if do panics or ends its goroutine.
	outcome := errNoReturn
	defer func() { g.report(u, outcome) }()
	outcome = g.use(ctx, u, do)
	return outcome
}

var errNoReturn = errors.New("the use did not return")

func (g *Gate) use(ctx context.Context, u Use, do func(auth secret.Bytes) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if u.Confirm || u.Forwarded && g.ConfirmForwarded {
		u.Confirm = true
		if err := g.confirm(ctx, u); err != nil {
			return err
		}
	}
	if u.NeedsAuth {
		return g.authorize(ctx, u, do)
	}
	err := do(secret.Bytes{})
	if errors.Is(err, ErrTryWithheld) {
		// There was no value to withhold; whatever the key meant, it is not for
		// a front end.
		return &LockoutError{Kept: true}
	}
	return err
}

// report says once what came of a use.
func (g *Gate) report(u Use, err error) {
	g.note(u, err)
	g.log(u, err)
	if g.Notify != nil {
		g.Notify(u, err)
	}
}

// authorize is Use for what needs a value: with the remembered one at once, or
// else in a turn.
func (g *Gate) authorize(ctx context.Context, u Use, do func(auth secret.Bytes) error) error {
	a := &attempt{gate: g, use: u, do: do}
	g.mu.Lock()
	g.running[a] = struct{}{}
	g.mu.Unlock()
	defer a.end()

	if done, err := a.quick(ctx); done {
		return err
	}
	var err error
	if g.Remembering() <= 0 || u.Once || u.Forwarded {
		err = a.slow(ctx)
	} else {
		err = g.inTurn(ctx, u, question{id: u.ID}, func() (bool, error) { return a.quick(ctx) },
			func() error { return a.slow(ctx) })
	}
	if err == nil {
		a.keep(ctx)
	}
	return err
}

// keep sees to it that the user is asked no more, if that is what he wished. It
// comes after the turn, as it may take its time.
func (a *attempt) keep(ctx context.Context) {
	if !a.automatic {
		return
	}
	if a.use.Automatic != nil {
		a.use.Automatic()
	}
	if a.use.Keep != nil {
		a.use.Keep(ctx, a.auth)
	}
}

// An attempt is one use on its way to a value that fits. Only its own goroutine
// touches it, but for stale.
type attempt struct {
	gate *Gate
	use  Use
	do   func(auth secret.Bytes) error

	auth      secret.Bytes // the value in hand; wiped when it is wrong and at the end
	from      *value       // where auth comes from; nil: the user has just typed it, or it was fetched
	fetched   bool         // auth comes from use.Recall
	spent     bool         // auth is not to be remembered
	asked     bool         // use.Recall was called
	entered   time.Time    // when auth was given
	automatic bool         // the user wishes to be asked no more
	wrong     int          // values spent in vain
	withheld  int          // times the key itself refused to spend the last try
	retry     bool         // the last answer was wrong
	warning   string       // for the next question
	agreed    bool         // the user agreed to spend the last try
	permitted bool         // the user allowed the use of a value that he did not type for it

	stale bool // guarded by gate.mu: forgotten since it was given
}

func (a *attempt) end() {
	a.auth.Wipe()
	a.gate.mu.Lock()
	delete(a.gate.running, a)
	a.gate.mu.Unlock()
}

// drop wipes the value in hand.
func (a *attempt) drop() {
	a.auth.Wipe()
	a.auth, a.from, a.fetched = secret.Bytes{}, nil, false
}

// quick uses the remembered value where there is one and nothing needs to be
// asked first. done is false if the user has to be asked.
func (a *attempt) quick(ctx context.Context) (done bool, err error) {
	if a.use.Forwarded || a.wrong >= a.gate.maxTries() || !a.recall() {
		return false, nil
	}
	tries, err := a.tries(ctx)
	if err != nil {
		return true, err
	}
	switch err := a.spend(ctx, tries); {
	case errors.Is(err, errForgotten), errors.Is(err, ErrTryWithheld):
		return false, nil
	case errors.Is(err, ErrAuthFailed):
		a.failed(tries)
		return false, nil
	default:
		return true, err
	}
}

// slow asks until a value fits, or enough were wrong.
func (a *attempt) slow(ctx context.Context) error {
	limit := a.gate.maxTries()
	for a.wrong < limit {
		if err := ctx.Err(); err != nil {
			return err
		}
		tries, err := a.tries(ctx)
		if err != nil {
			return err
		}
		if err := a.judge(ctx, tries); err != nil {
			return err
		}
		if a.auth.Len() == 0 {
			if err := a.obtain(ctx, tries); err != nil {
				return err
			}
		}
		switch err := a.spend(ctx, tries); {
		case err == nil:
			return nil
		case errors.Is(err, errForgotten):
			a.drop()
		case errors.Is(err, ErrTryWithheld):
			// Look at the counter again, with the value still in hand: the user
			// need not type it twice. A key that insists has the last word.
			if a.withheld++; a.withheld >= maxWithheld {
				return &LockoutError{Until: until(tries.Wait), Kept: true}
			}
		case errors.Is(err, ErrAuthFailed):
			a.failed(tries)
		default:
			return err
		}
	}
	return fmt.Errorf("%s: %w, %d times", a.use.Subject, ErrAuthFailed, a.wrong)
}

// obtain takes a value into hand, from wherever there is one.
func (a *attempt) obtain(ctx context.Context, tries Tries) error {
	if !a.recall() && !a.fetch(ctx) {
		return a.ask(ctx, tries)
	}
	if !a.use.Forwarded || a.use.Confirm || a.permitted {
		return nil
	}
	if err := a.gate.confirm(ctx, a.use); err != nil {
		return err
	}
	a.permitted = true
	return nil
}

func (g *Gate) maxTries() int {
	if g.MaxTries < 1 {
		return defaultMaxTries
	}
	return g.MaxTries
}

// failed puts away a value that was wrong. A remembered one is forgotten, as
// it will not become right again.
func (a *attempt) failed(t Tries) {
	if !a.fetched || t.Limited {
		a.wrong++
	}
	a.agreed, a.automatic = false, false
	a.retry = a.from == nil && !a.fetched
	if !a.retry {
		a.warning = fmt.Sprintf("The remembered %s is no longer right.", a.word())
	}
	if a.from != nil {
		a.gate.forgetValue(a.from)
	}
	a.drop()
}

// fetch takes the value that is kept elsewhere into hand, if there is one and
// it was not tried yet.
func (a *attempt) fetch(ctx context.Context) bool {
	if a.use.Recall == nil || a.use.Once || a.asked {
		return false
	}
	a.asked = true
	auth, ok := a.use.Recall(ctx)
	if !ok || auth.Len() == 0 {
		auth.Wipe()
		return false
	}
	a.take(auth)
	a.fetched = true
	return true
}

// take takes a value that is not remembered into hand.
func (a *attempt) take(auth secret.Bytes) {
	a.auth, a.from, a.fetched, a.entered = auth, nil, false, time.Now()
	a.spent = a.use.Once || a.use.Forwarded
	a.gate.mu.Lock()
	a.stale = false
	a.gate.mu.Unlock()
}

func (a *attempt) word() string {
	if a.use.PIN {
		return "PIN"
	}
	return "passphrase"
}

// ask gets a value from the user.
func (a *attempt) ask(ctx context.Context, tries Tries) error {
	left := a.gate.maxTries() - a.wrong
	if tries.Limited {
		// The device's last try does not count as one that may go wrong, except
		// where the user agreed to it.
		left = max(1, min(left, tries.Left-1))
	}
	q := prompt.Question{
		Kind:      prompt.Passphrase,
		Warning:   a.warning,
		Retry:     a.retry,
		Left:      left,
		PIN:       a.use.PIN,
		Automatic: !a.use.Forwarded && (a.use.Automatic != nil || a.use.Keep != nil),
	}
	if !a.use.Once && !a.use.Forwarded && a.gate.Remembering() > 0 {
		q.Remember, q.Terms = a.gate.Remembering(), true
	}
	answer, err := a.gate.ask(ctx, a.use, q)
	if err != nil {
		return err
	}
	a.take(answer.Passphrase)
	a.warning, a.automatic = "", q.Automatic && answer.Automatic
	// A value is never kept until Lock: it is a secret, and not a permission.
	a.spent = a.spent || answer.Chosen && answer.Term == prompt.Once
	return nil
}
