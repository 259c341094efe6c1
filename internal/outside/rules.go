// Package outside is a second process of the daemon's own program, which stays
// outside of the sandbox that the daemon puts itself into. It does what the
// daemon cannot do from inside: it says who a process is, and it starts those
// programs that it was told of before the daemon went in, as they were told of.
//
// The daemon's end is a [Process], the other a call of [Serve]. They talk over a
// pair of sockets, and each ends with the other. What comes over it is not
// trusted: a daemon that somebody has taken over gets no program started that is
// not in the [Rule]s, and none with an argument, a variable or a first word that
// is not.
package outside

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/keyringd/keyringd/internal/spawn"
)

// maxRules is more than rules take up, with an environment twice.
const maxRules = 16 << 20

// A Rule is a kind of program that may be started.
type Rule struct {
	Kind   string
	Paths  []string
	Args   [][]string // one of these
	Text   bool       // or one of any text that is not an option
	Env    []string   // the environment
	Extra  []string   // further variables, each as NAME=PATTERN; see path.Match
	Filter string     // the Filter that its standard input goes through; "": none
	Allow  string     // for the Filter
	Files  int        // how many descriptors it gets, at most
}

// Orders are what the process outside may do.
type Orders struct {
	Rules   []Rule   // start programs
	Folders []string // put files down in these, hidden or not
	Home    string   // the user's: what is hidden in it may be a program's
}

// A Filter reads what goes to a program's standard input and writes on what may.
// An error ends the program.
type Filter func(to io.Writer, from io.Reader, allow string) error

func readOrders(r io.Reader) (o Orders, err error) {
	if err := json.NewDecoder(io.LimitReader(r, maxRules)).Decode(&o); err != nil {
		return o, fmt.Errorf("orders: %w", err)
	}
	return o.with(narrow), nil
}

// permit returns the rule by which a command may be started, with its
// environment.
func permit(rules []Rule, c spawn.Command, extra []string) (Rule, []string, error) {
	for _, r := range rules {
		if r.Kind != c.Kind || !slices.Contains(r.Paths, c.Path) {
			continue
		}
		if !r.args(c.Args) {
			return r, nil, fmt.Errorf("%s may not be started with these arguments", c.Path)
		}
		for _, v := range extra {
			if !r.variable(v) {
				return r, nil, fmt.Errorf("%s may not be started with this environment", c.Path)
			}
		}
		if len(c.Files) > r.Files {
			return r, nil, fmt.Errorf("%s may not be given so many files", c.Path)
		}
		return r, slices.Concat([]string{}, r.Env, extra), nil
	}
	return Rule{}, nil, fmt.Errorf("%s was not among the programs to be started when keyringd began", c.Path)
}

func (r Rule) args(args []string) bool {
	if r.Text && len(args) == 1 && !strings.HasPrefix(args[0], "-") {
		return true
	}
	return slices.ContainsFunc(r.Args, func(a []string) bool { return slices.Equal(a, args) })
}

func (r Rule) variable(v string) bool {
	return slices.ContainsFunc(r.Extra, func(pattern string) bool {
		ok, err := path.Match(pattern, v)
		return ok && err == nil
	})
}

// extras returns the variables of a command that its rule does not have.
func extras(rules []Rule, c spawn.Command) []string {
	var has []string
	for _, r := range rules {
		if r.Kind == c.Kind {
			has = r.Env
			break
		}
	}
	var more []string
	for _, v := range c.Env {
		if !slices.Contains(has, v) {
			more = append(more, v)
		}
	}
	return more
}
