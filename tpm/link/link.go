package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// ErrGone is wrapped by every error after which a link is useless: the TPM went
// away, did not answer in time, or command and response are out of step. Dial
// again, and take all that was loaded through the link for lost.
var ErrGone = errors.New("the connection to the TPM is gone")

var errClosed = errors.New("closed")

// How long a TPM that asks for a command to be repeated is given. The bound is
// for all repetitions of one command together; the user waits meanwhile.
const (
	firstDelay = time.Millisecond
	maxDelay   = 512 * time.Millisecond
	maxRetry   = 4 * time.Second
)

// How long a TPM may take over one command before the link is given up. Chips
// make an RSA key in anything from a second to minutes. Behind a resource
// manager the wait for other users' commands is part of it.
const (
	createLimit = 5 * time.Minute
	slowLimit   = 90 * time.Second
	usualLimit  = 30 * time.Second
)

func timeLimit(code tpm2.TPMCC) time.Duration {
	switch code {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCCreate, tpm2.TPMCCCreateLoaded:
		return createLimit
	case tpm2.TPMCCImport, tpm2.TPMCCRewrap, tpm2.TPMCCSelfTest, tpm2.TPMCCIncrementalSelfTest,
		tpm2.TPMCCClear, tpm2.TPMCCChangePPS, tpm2.TPMCCChangeEPS, tpm2.TPMCCPCRAllocate, tpm2.TPMCCStartup:
		return slowLimit
	}
	return usualLimit
}

// A channel carries one command and its response at a time.
type channel interface {
	// exchange sends cmd and reads the response, into buf if there is room. It
	// gives up after limit. After an error the channel is used no more.
	exchange(cmd, buf []byte, limit time.Duration) ([]byte, error)
	io.Closer
}

// A Link is an open channel to a TPM; it is a transport.TPMCloser of go-tpm.
//
// Send must not be called concurrently, since a TPM answers in the order it is
// asked and its responses do not say what they answer. Close may be called at
// any time, also while Send runs, which then ends with ErrGone.
type Link struct {
	name     string
	ch       channel
	counters *Counters
	startup  bool // start a TPM that says nobody has
	buf      []byte
	gone     error

	closing  chan struct{}
	closed   sync.Once
	closeErr error
}

// Dial opens the TPM at a, which must be a Device, Unix or TCP address; ctx
// bounds the dialling and nothing after it. Commands are counted in c, which
// may be nil. The caller closes the Link.
//
// Opening a device touches no TPM.
func Dial(ctx context.Context, a Address, c *Counters) (*Link, error) {
	ch, err := open(ctx, a)
	if err != nil {
		return nil, err
	}
	return newLink(a, ch, c), nil
}

func newLink(a Address, ch channel, c *Counters) *Link {
	if c == nil {
		c = new(Counters)
	}
	return &Link{
		name:     a.String(),
		ch:       ch,
		counters: c,
		startup:  !a.ResourceManager,
		buf:      make([]byte, 0, readSize),
		closing:  make(chan struct{}),
	}
}

// Send sends one whole command and returns its whole response, which is the
// caller's. A response with a response code other than success is not an
// error. It waits for the TPM, at most as long as the kind of command may take.
//
// A command that the TPM asks to be repeated (TPM_RC_RETRY, YIELDED, TESTING,
// NV_RATE) is, with growing pauses, for at most 4 s; then the caller gets that
// response. On a link without a resource manager, a TPM that was not started
// (TPM_RC_INITIALIZE) is started with TPM2_Startup(CLEAR) and asked again.
//
// An error that does not wrap [ErrGone] means that nothing was sent.
func (l *Link) Send(cmd []byte) ([]byte, error) {
	code, err := commandCode(cmd)
	if err != nil {
		return nil, err
	}
	rsp, err := l.send(code, cmd)
	if err != nil {
		return nil, err
	}
	if l.startup && responseCode(rsp) == tpm2.TPMRCInitialize && code != tpm2.TPMCCStartup {
		if rsp, err = l.start(code, cmd); err != nil {
			return nil, err
		}
	}
	return bytes.Clone(rsp), nil
}

// startupClear is TPM2_Startup(TPM_SU_CLEAR).
var startupClear = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0}

// start starts the TPM and sends cmd again. Whether somebody else was quicker
// to start it shows in the response to cmd.
func (l *Link) start(code tpm2.TPMCC, cmd []byte) ([]byte, error) {
	if _, err := l.send(tpm2.TPMCCStartup, startupClear); err != nil {
		return nil, err
	}
	return l.send(code, cmd)
}

// send sends cmd until the TPM does not ask for it again. The response is valid
// until the next call.
func (l *Link) send(code tpm2.TPMCC, cmd []byte) ([]byte, error) {
	rsp, err := l.once(code, cmd, false)
	if err != nil || !again(responseCode(rsp)) {
		return rsp, err
	}
	begun := time.Now()
	for delay := firstDelay; time.Since(begun)+delay <= maxRetry; delay = min(2*delay, maxDelay) {
		if err := l.pause(code, delay); err != nil {
			return nil, err
		}
		rsp, err = l.once(code, cmd, true)
		if err != nil || !again(responseCode(rsp)) {
			return rsp, err
		}
	}
	return rsp, nil
}

// again says whether the TPM wants the same bytes again. It has then done
// nothing yet, nor advanced the nonce of a session: Part 1, "Response Code
// Evaluation".
func again(rc tpm2.TPMRC) bool {
	switch rc {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate:
		return true
	}
	return false
}

func (l *Link) pause(code tpm2.TPMCC, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-l.closing:
		return l.fail(code, errClosed)
	}
}

// once sends cmd one time and counts it.
func (l *Link) once(code tpm2.TPMCC, cmd []byte, retried bool) ([]byte, error) {
	if l.gone != nil {
		return nil, l.gone
	}
	select {
	case <-l.closing:
		return nil, l.fail(code, errClosed)
	default:
	}
	begun := time.Now()
	rsp, err := l.ch.exchange(cmd, l.buf, timeLimit(code))
	failed := err != nil || responseCode(rsp) != tpm2.TPMRCSuccess
	l.counters.add(code, time.Since(begun), failed, retried)
	if err != nil {
		return nil, l.fail(code, err)
	}
	return rsp, nil
}

// fail ends the link: whatever the TPM may still answer would be taken for the
// answer to something else.
func (l *Link) fail(code tpm2.TPMCC, err error) error {
	l.gone = fmt.Errorf("%s: %w", l.name, ErrGone)
	err = fmt.Errorf("%s: TPM command %#x: %w: %w", l.name, uint32(code), ErrGone, err)
	_ = l.Close()
	return err
}

// Close closes the channel. A Send that is running ends with an error, and so
// does every later one. Closing twice is harmless.
func (l *Link) Close() error {
	l.closed.Do(func() {
		close(l.closing)
		l.closeErr = l.ch.Close()
	})
	return l.closeErr
}
