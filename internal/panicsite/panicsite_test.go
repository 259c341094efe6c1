package panicsite

import (
	"strings"
	"testing"
)

func fall() { panic("not to be told") }

func TestOf(t *testing.T) {
	if got := Of(); got != "unknown" {
		t.Errorf("without a panic: %s", got)
	}
	defer func() {
		if got := Of(); recover() == nil || !strings.Contains(got, "internal/panicsite.fall:") {
			t.Errorf("panicked at %s", got)
		}
	}()
	fall()
}

// A panic of the runtime's own is placed where our code caused it.
func TestOfRuntimePanic(t *testing.T) {
	defer func() {
		if got := Of(); recover() == nil || !strings.Contains(got, "TestOfRuntimePanic") {
			t.Errorf("panicked at %s", got)
		}
	}()
	few := make([]int, 1)
	_ = few[len(t.Name())]
}
