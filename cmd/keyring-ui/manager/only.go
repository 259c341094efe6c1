package manager

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// toldWithin is how long another one may take to show its window: the toolkit
	// of one that has only begun may need most of that on a busy machine.
	toldWithin = 20 * time.Second
	// leavingFor is how long one that is about to end is waited for.
	leavingFor = 3 * time.Second
	// showWord and stayWord are all that is ever said; they are equally long.
	showWord, stayWord = "show\n", "stay\n"
)

// An Only is the one manager of a user on a display. That is decided by who has
// an abstract socket (unix(7)): it is there as long as the process, so that
// nothing is left behind by one that was killed.
type Only struct {
	l  *net.UnixListener // nil: there may be others
	wg sync.WaitGroup
}

// NewOnly returns the Only of a display, which Close gives back. It is nil where
// another manager has it already, which has shown its window by then, if
// show. Where that one does not answer, or somebody else has taken its place,
// there may be another manager.
func NewOnly(display string, show bool) *Only {
	// What is in the environment may be too long for a socket's name.
	name := fmt.Sprintf("@io.github.keyringd.manager/%d/%.12x", os.Getuid(), sha256.Sum256([]byte(display)))
	address := &net.UnixAddr{Name: name, Net: "unix"}
	word := stayWord
	if show {
		word = showWord
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(leavingFor); ; {
		l, err := net.ListenUnix("unix", address)
		if err == nil {
			return &Only{l: l}
		}
		if err := tell(address, word); err == nil {
			return nil
		} else if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errStranger) {
			return &Only{}
		}
		// It is about to end.
		select {
		case <-tick.C:
		case <-limit:
			return &Only{}
		}
	}
}

// Display is what the environment says of the display that windows open on.
func Display(getenv func(string) string) string {
	if w := getenv("WAYLAND_DISPLAY"); w != "" {
		return "wayland " + getenv("XDG_RUNTIME_DIR") + " " + w
	}
	// All screens of a display have the same windows' manager: X(7).
	display := getenv("DISPLAY")
	if colon := strings.LastIndexByte(display, ':'); colon >= 0 {
		number, _, _ := strings.Cut(display[colon:], ".")
		display = display[:colon] + number
	}
	return "x " + display
}

// tell has another manager show its window, or not.
func tell(address *net.UnixAddr, word string) error {
	c, err := net.DialUnix("unix", nil, address)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(toldWithin)); err != nil {
		return err
	}
	if err := own(c); err != nil {
		return err
	}
	if _, err := c.Write([]byte(word)); err != nil {
		return err
	}
	_, err = bufio.NewReader(c).ReadString('\n')
	return err
}

// Serve calls show, on a goroutine of its own, each time another manager is
// started that would show its window, until Close. It returns at once. The other
// one ends when show has returned.
func (o *Only) Serve(show func()) {
	if o.l == nil {
		return
	}
	o.wg.Go(func() {
		for {
			c, err := o.l.AcceptUnix()
			if err != nil { // Close; or no descriptors: better two windows than none
				_ = o.l.Close()
				return
			}
			o.take(c, show)
		}
	})
}

// take hears one other manager. It is said in one piece, and at once.
func (o *Only) take(c *net.UnixConn, show func()) {
	defer c.Close()
	if own(c) != nil || c.SetDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	said := make([]byte, len(showWord))
	n, err := c.Read(said)
	switch word := string(said[:n]); {
	case err != nil || word != showWord && word != stayWord:
		return
	case word == showWord:
		show()
	}
	_, _ = c.Write([]byte("OK\n"))
}

// Close lets another manager take the place.
func (o *Only) Close() {
	if o.l != nil {
		_ = o.l.Close()
	}
}

var errStranger = errors.New("the other end belongs to another user")

// own wants the other end to belong to the same user: abstract sockets are
// everybody's.
func own(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr == nil && int(cred.Uid) != os.Getuid() {
		return errStranger
	}
	return credErr
}
