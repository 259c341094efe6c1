package keyring

import "fmt"

// A Caller is the process that a front end is acting for. It is a parameter,
// never a context value: no use of a key compiles without saying who wants it.
//
// Under one uid it is advice for the user's eyes and choices, not a security
// boundary.
type Caller struct {
	FrontEnd string // "ssh-agent", "D-Bus", "PKCS#11"
	PID      int    // 0: not known
	Program  string // absolute path of the executable; empty: not known
	Process  string // the chain to show: "ssh (4711) ← git ← zsh"; sanitised
}

// String is the caller as a person reads it in a prompt or a log. It is never
// empty, so that a question always says who wants it.
func (c Caller) String() string {
	switch {
	case c.Process != "":
		return c.Process
	case c.Program != "" && c.PID != 0:
		return fmt.Sprintf("%s (%d)", c.Program, c.PID)
	case c.Program != "":
		return c.Program
	case c.FrontEnd != "":
		return "an unknown program (" + c.FrontEnd + ")"
	default:
		return "an unknown program"
	}
}
