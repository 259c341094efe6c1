// Package panicsite finds out where a panic was raised that has been recovered,
// for a journal that must not have its value: that may be a secret.
package panicsite

import (
	"fmt"
	"runtime"
	"strings"
)

// Of returns the function and line that panicked, "unknown" outside a panic. It
// is called by the deferred function that recovers.
func Of() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(0, pcs)])
	panicked := false
	for {
		f, more := frames.Next()
		panicked = panicked || f.Function == "runtime.gopanic"
		if panicked && !strings.HasPrefix(f.Function, "runtime.") {
			return fmt.Sprintf("%s:%d", f.Function, f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}
