package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/keyringd/keyringd/internal/caller"
	"github.com/keyringd/keyringd/internal/secret"
	"github.com/keyringd/keyringd/keyring"
)

const (
	// upstreamTimeout is how long the other agent may take over anything but a
	// signature, for which it may ask somebody.
	upstreamTimeout = time.Second
	// upstreamAbsent is how long it is left alone after it failed, so that not
	// every request waits for one that hangs.
	upstreamAbsent = 5 * time.Second
)

// An absence is since when the other agent is not to be reached.
type absence struct {
	mu    sync.Mutex
	since time.Time // zero: it is there
}

func (a *absence) is() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.since.IsZero() && age(a.since, time.Now()) < upstreamAbsent
}

// note takes note of how a request went, and reports whether that is news.
func (a *absence) note(failed bool) (news bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	news = failed && a.since.IsZero()
	a.since = time.Time{}
	if failed {
		a.since = time.Now()
	}
	return news
}

// An upstream is one session's connection to another agent, made when it is
// first needed. What binds our connection binds that one, too. Requests that it
// gets are those that ask for nothing else than our own would: its keys are
// listed, used and removed; it is never locked, and nothing is added to it.
//
// A nil *upstream is none. It is used by its session alone.
type upstream struct {
	server *Server
	conn   net.Conn
	binds  [][]byte          // EXTENSION bodies, to be repeated on a new connection
	keys   map[string]string // comments by blob, as last listed
}

func (s *Server) newUpstream() *upstream {
	if s.Upstream == "" {
		return nil
	}
	return &upstream{server: s}
}

func (u *upstream) close() {
	if u != nil && u.conn != nil {
		_ = u.conn.Close()
		u.conn = nil
	}
}

var errUpstream = errors.New("the other agent")

// ask sends a request and returns the reply without its length. limit 0 lets the
// other agent take its time.
func (u *upstream) ask(ctx context.Context, request []byte, limit time.Duration) ([]byte, error) {
	if u.server.absent.is() {
		return nil, fmt.Errorf("%w: was not there a moment ago: %w", errUpstream, keyring.ErrUnavailable)
	}
	reply, err := u.try(ctx, request, limit)
	if err != nil {
		u.close()
		if ctx.Err() != nil {
			return nil, ctx.Err() // ours to blame
		}
		err = fmt.Errorf("%w at %s: %w: %w", errUpstream, u.server.Upstream, keyring.ErrUnavailable, err)
	}
	if u.server.absent.note(err != nil) {
		u.server.journal.line(ctx, slog.LevelWarn, "the other agent's keys are not offered", slog.Any("err", err))
	}
	return reply, err
}

func (u *upstream) try(ctx context.Context, request []byte, limit time.Duration) ([]byte, error) {
	if u.conn == nil {
		if err := u.dial(ctx); err != nil {
			return nil, err
		}
	}
	return u.exchange(ctx, request, limit)
}

// dial connects, and binds the new connection to what ours is bound to.
func (u *upstream) dial(ctx context.Context) error {
	d := net.Dialer{Timeout: upstreamTimeout}
	c, err := d.DialContext(ctx, "unix", u.server.Upstream)
	if err != nil {
		return err
	}
	u.conn = c
	if p, err := caller.FromConn(c.(*net.UnixConn)); err == nil && p.PID == u.server.pid {
		return errors.New("it is this agent itself")
	}
	for _, body := range u.binds {
		// Whether it accepts is its affair.
		if _, err := u.exchange(ctx, bindRequest(body), upstreamTimeout); err != nil {
			return err
		}
	}
	return nil
}

func bindRequest(body []byte) []byte { return append([]byte{msgExtension}, body...) }

// exchange is one request and its reply, on the connection that there is.
func (u *upstream) exchange(ctx context.Context, request []byte, limit time.Duration) ([]byte, error) {
	var end time.Time
	if limit > 0 {
		end = time.Now().Add(limit)
	}
	if err := u.conn.SetDeadline(end); err != nil {
		return nil, err
	}
	conn := u.conn
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)
	_, err := conn.Write(frame)
	clear(frame)
	if err != nil {
		return nil, err
	}
	var head [headerSize]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxReply {
		return nil, errFrame
	}
	var b bytes.Buffer // grows with what arrives
	if _, err := io.CopyN(&b, conn, int64(n)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// bind tells the other agent what our connection is bound to. body is on loan.
func (u *upstream) bind(body []byte) {
	if u == nil || len(u.binds) == maxBindings {
		return
	}
	u.binds = append(u.binds, bytes.Clone(body))
	// A connection that exists knows nothing of it; the next one will.
	u.close()
}

// list asks for the other agent's keys. It calls each, if not nil, with them in
// their order.
func (u *upstream) list(ctx context.Context, each func(blob []byte, comment string)) error {
	reply, err := u.ask(ctx, []byte{msgRequestIdentities}, upstreamTimeout)
	if err != nil {
		return err
	}
	d := decoder{rest: reply}
	if d.byte() != msgIdentitiesAnswer {
		return fmt.Errorf("%w: does not list its keys", errUpstream)
	}
	u.keys = map[string]string{}
	for n := d.uint32(); n > 0; n-- {
		blob, comment := d.string(), caller.Sanitize(string(d.string()), maxComment)
		if d.bad {
			return fmt.Errorf("%w: malformed list", errUpstream)
		}
		u.keys[string(blob)] = comment
		if each != nil {
			each(blob, comment)
		}
	}
	return nil
}

// appendList appends the other agent's keys to a list of ours, as far as they
// are others and clients take them. reply is not modified.
func (u *upstream) appendList(ctx context.Context, reply []byte, ours *identitySet) []byte {
	if u == nil {
		return reply
	}
	listed := binary.BigEndian.Uint32(reply[headerSize+1:])
	b := bytes.Clone(reply)
	full := false
	err := u.list(ctx, func(blob []byte, comment string) {
		if ours.byBlob[string(blob)] != nil || full {
			return
		}
		if full = listed == maxIdentities || len(b)-headerSize+8+len(blob)+len(comment) > maxReply; full {
			return
		}
		b = appendString(appendString(b, blob), comment)
		listed++
	})
	if err != nil {
		return reply
	}
	binary.BigEndian.PutUint32(b[headerSize+1:], listed)
	return endFrame(b)
}

// has reports whether the other agent has a key, and what it calls it.
func (u *upstream) has(ctx context.Context, blob []byte) (comment string, ok bool) {
	if u == nil {
		return "", false
	}
	if comment, ok = u.keys[string(blob)]; ok {
		return comment, true
	}
	if u.list(ctx, nil) != nil {
		return "", false
	}
	comment, ok = u.keys[string(blob)]
	return comment, ok
}

// remove has the other agent remove a key, and reports whether it did.
func (u *upstream) remove(ctx context.Context, blob []byte) bool {
	if _, ok := u.has(ctx, blob); !ok {
		return false
	}
	delete(u.keys, string(blob))
	reply, err := u.ask(ctx, appendString([]byte{msgRemoveIdentity}, blob), upstreamTimeout)
	return err == nil && reply[0] == msgSuccess
}

// removeAll has the other agent remove all its keys.
func (u *upstream) removeAll(ctx context.Context) {
	if u == nil {
		return
	}
	u.keys = nil
	_, _ = u.ask(ctx, []byte{msgRemoveAll}, upstreamTimeout) // what it still has, it lists
}

// signUpstream has the other agent sign, with what it asks its user for. The
// Gate takes note of it as of any use. body is the whole request.
func (s *session) signUpstream(blob, data, body []byte) (reply []byte, err error) {
	comment, ok := s.upstream.has(s.ctx, blob)
	if !ok {
		return nil, errUnknownKey
	}
	use := s.use(&identity{blob: blob}, comment, s.purposeOf(data, blob))
	err = s.watched(func() error {
		return s.server.Keys.Gate().Use(s.ctx, use, func(secret.Bytes) error {
			answer, err := s.upstream.ask(s.ctx, append([]byte{msgSignRequest}, body...), 0)
			if err != nil {
				return err
			}
			if answer[0] != msgSignResponse {
				return fmt.Errorf("%w: refuses: %w", errUpstream, keyring.ErrDenied)
			}
			reply = endFrame(append(newFrame(msgSignResponse, headerSize+len(answer)), answer[1:]...))
			return nil
		})
	})
	if err == nil && s.server.lock.locked.Load() {
		err = fmt.Errorf("%w: locked meanwhile", keyring.ErrLocked)
	}
	if err != nil {
		return nil, err
	}
	return reply, nil
}
