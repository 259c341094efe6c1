package confine

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A thread that takes no signals keeps the others from going in, and would have
// kept them from everything else.
func TestEnterWithAThreadThatIsHeld(t *testing.T) {
	if _, err := Version(); err != nil {
		t.Skip(err)
	}
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	blocked, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var all, before unix.Sigset_t
		for i := range all.Val {
			all.Val[i] = ^all.Val[i]
		}
		err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &before)
		blocked <- err
		if err != nil {
			return
		}
		// Not by os.File, which would leave the thread.
		_, _ = syscall.Read(ends[0], make([]byte, 1))
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)
	}()
	if err := <-blocked; err != nil {
		t.Fatal(err)
	}
	// All that there is, so that a failure is not one of the next test.
	if err := (Domain{Read: []string{"/"}, Write: []string{"/"}}).Enter(); !errors.Is(err, ErrHeld) {
		t.Errorf("entering with a thread that is held: %v", err)
	}
	_ = syscall.Close(ends[1])
	<-done
	_ = syscall.Close(ends[0])
	if _, err := os.Stat(tasks); err == nil && held(100*heedWait) {
		t.Error("a thread is held that is not")
	}
}
