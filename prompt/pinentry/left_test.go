package pinentry

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/keyringd/keyringd/internal/spawn"
)

// departed has ended, and was not there to kill what it left behind.
type departed struct{ spawn.Process }

func (departed) Done() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// A question ends with its asker, though the program is gone and something else
// has its output.
func TestOutputIsHeldByAnother(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	errs, held, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithCancel(t.Context())
	c := &child{process: departed{}, stdout: r}
	_, err = converse(ctx, c, readTail(errs), func(c *child) error {
		cancel()
		_, err := c.stdout.Read(make([]byte, 1))
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
