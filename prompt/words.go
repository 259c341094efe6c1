package prompt

import (
	"fmt"
	"time"
)

// Headline is what a question asks for, in our own words alone.
func (q Question) Headline() string {
	switch q.Kind {
	case Confirm:
		return "Allow the use of this?"
	case Notice:
		return "Please note:"
	case NewPassphrase:
		return "Choose a new " + q.Word() + " for:"
	default:
		return "Enter the " + q.Word() + " for:"
	}
}

// Word is what the user calls it.
func (q Question) Word() string {
	if q.PIN {
		return "PIN"
	}
	return "passphrase"
}

// Wrong says that the previous answer was not right; "" if there was none.
func (q Question) Wrong() string {
	if !q.Retry {
		return ""
	}
	s := "Wrong " + q.Word() + "."
	switch {
	case q.Left == 1:
		s += " One try left."
	case q.Left > 1:
		s += fmt.Sprintf(" %d tries left.", q.Left)
	}
	return s
}

// Duration says d as people do, in its largest whole unit.
func Duration(d time.Duration) string {
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		if d < u.d || d%u.d != 0 && u.d != time.Second {
			continue
		}
		n := int64(d / u.d)
		if n == 1 {
			return "1 " + u.name
		}
		return fmt.Sprintf("%d %ss", n, u.name)
	}
	return "a moment"
}
