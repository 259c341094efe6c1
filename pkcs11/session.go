package pkcs11

import (
	"context"
	"errors"
	"hash"
	"sync"

	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// maxSessions is how many sessions a connection may have open. Programs that
// pool them have tens.
const maxSessions = 1024

// The CKF_ flags of sessions, their states (CKS_), and users (CKU_), §3.3, §3.6.
const (
	flagRW     = 0x2
	flagSerial = 0x4

	stateROPublic = 0
	stateROUser   = 1
	stateRWPublic = 2
	stateRWUser   = 3

	userSO              = 0
	userUser            = 1
	userContextSpecific = 2
)

// A session is a PKCS#11 session, §5.6: it has at most one operation of each
// kind under way.
type session struct {
	id, slot uint64
	writing  bool            // opened for it
	ctx      context.Context // ends when the session is closed
	cancel   context.CancelFunc

	mu        sync.Mutex
	finding   bool
	found     []uint64 // handles that C_FindObjects has not returned yet
	digesting hash.Hash
	ops       [kinds]*operation
}

// session returns an open session.
func (n *connection) session(id uint64) (*session, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s, ok := n.sessions[id]; ok {
		return s, nil
	}
	return nil, p11rpc.SessionHandleInvalid
}

// inSession ends the reading of a request's fields, and calls f with the session
// to itself.
func (q *request) inSession(id uint64, f func(*session) error) error {
	if err := q.in.End(); err != nil {
		return err
	}
	s, err := q.session(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return f(s)
}

// inTime says what an error means of something that a session waited for: when
// the session was closed meanwhile, that is the reason.
func (q *request) inTime(s *session, err error) error {
	if errors.Is(err, context.Canceled) && s.ctx.Err() != nil && q.ctx.Err() == nil {
		return p11rpc.SessionClosed
	}
	return err
}

// openSession is C_OpenSession, §5.6. Handles are not used twice.
func (q *request) openSession() error {
	id, flags := q.in.Ulong(), q.in.Ulong()
	if err := q.in.End(); err != nil {
		return err
	}
	if _, err := q.token(id); err != nil {
		return err
	}
	if flags&flagSerial == 0 {
		return p11rpc.SessionParallelNotSupp
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.sessions) >= maxSessions {
		return p11rpc.SessionCount
	}
	q.lastSession++
	s := &session{id: q.lastSession, slot: id, writing: flags&flagRW != 0}
	s.ctx, s.cancel = context.WithCancel(q.ctx)
	q.sessions[s.id] = s
	q.out.Ulong(s.id)
	return nil
}

// closeSession is C_CloseSession, §5.6. A signature that it waits for is called
// off.
func (q *request) closeSession() error {
	id := q.in.Ulong()
	if err := q.in.End(); err != nil {
		return err
	}
	if q.closeSessions(func(s *session) bool { return s.id == id }) == 0 {
		return p11rpc.SessionHandleInvalid
	}
	return nil
}

// closeAllSessions is C_CloseAllSessions, §5.6.
func (q *request) closeAllSessions() error {
	id := q.in.Ulong()
	if err := q.in.End(); err != nil {
		return err
	}
	if _, err := q.slot(id); err != nil {
		return err
	}
	q.closeSessions(func(s *session) bool { return s.slot == id })
	return nil
}

// closeSessions closes those that match, and returns how many there were. With
// a token's last session its login ends, §5.6.
func (n *connection) closeSessions(match func(*session) bool) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	closed := 0
	open := map[uint64]bool{}
	for id, s := range n.sessions {
		if match(s) {
			s.cancel()
			delete(n.sessions, id)
			n.forgetLocked(s)
			closed++
		} else {
			open[s.slot] = true
		}
	}
	for slot := range n.loggedIn {
		if !open[slot] {
			delete(n.loggedIn, slot)
		}
	}
	return closed
}

type sessionCount struct{ all, writing uint64 }

// countSessions counts the sessions with a slot's token.
func (n *connection) countSessions(slot uint64) (c sessionCount) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.sessions {
		if s.slot == slot {
			c.all++
			if s.writing {
				c.writing++
			}
		}
	}
	return c
}

// getSessionInfo is C_GetSessionInfo, §5.6.
func (q *request) getSessionInfo() error {
	return q.inSession(q.in.Ulong(), func(s *session) error {
		flags := uint64(flagSerial)
		if s.writing {
			flags |= flagRW
		}
		q.out.Ulong(s.slot)
		q.out.Ulong(q.state(s))
		q.out.Ulong(flags)
		q.out.Ulong(0)
		return nil
	})
}

func (n *connection) state(s *session) uint64 {
	user := n.userIn(s.slot)
	switch {
	case s.writing && user:
		return stateRWUser
	case s.writing:
		return stateRWPublic
	case user:
		return stateROUser
	}
	return stateROPublic
}

// userIn reports whether the program has logged in to a slot's token.
func (n *connection) userIn(slot uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.loggedIn[slot]
}

// seesPrivate reports whether private keys are visible in a slot.
func (n *connection) seesPrivate(slot uint64) bool { return !n.server.strict || n.userIn(slot) }

// login is C_Login, §5.6. A PIN is not wanted and not looked at: the user is
// asked where a key is used.
func (q *request) login() error {
	id, user := q.in.Ulong(), q.in.Ulong()
	q.in.Bytes()
	return q.inSession(id, func(s *session) error {
		switch user {
		case userUser:
		case userContextSpecific:
			// No key asks for it; where an operation waits it is harmless.
			if s.ops == [kinds]*operation{} {
				return p11rpc.OperationNotInitialized
			}
			return nil
		case userSO:
			return p11rpc.TokenWriteProtected // there is nothing for a security officer to do
		default:
			return p11rpc.UserTypeInvalid
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.loggedIn[s.slot] {
			return p11rpc.UserAlreadyLoggedIn
		}
		q.loggedIn[s.slot] = true
		return nil
	})
}

// logout is C_Logout, §5.6.
func (q *request) logout() error {
	return q.inSession(q.in.Ulong(), func(s *session) error {
		q.mu.Lock()
		defer q.mu.Unlock()
		if !q.loggedIn[s.slot] {
			return p11rpc.UserNotLoggedIn
		}
		delete(q.loggedIn, s.slot)
		return nil
	})
}
