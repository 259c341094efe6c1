package keyringd_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// excused are the places where a house rule is broken on purpose, by
// "file name", where name is the function or the variable; with the reason. An
// excuse that nothing needs any more is a fault.
var excused = map[string]string{
	"internal/caller/proc.go lookers":  "the goroutines that it limits are the whole process's",
	"internal/secret/arena.go arena":   "the limit on locked memory that it lives under is the process's",
	"keyring/journal.go log":           "a log line belongs to no request that could end",
	"prompt/pinentry/expect.go expect": "it outlives the look at the keys that it follows; Close ends it",
	"prompt/queue.go showLocked":       "a notice outlives the request that it tells of; Close ends it",
	"tpm/rooms.go forgetKey":           "it tidies up after a key whose asker is gone; Close waits for it",
	"tpm/swtpm/swtpm.go orderly":       "it runs when the caller's context has ended; a time limit ends it",
}

// quiet are the functions whose result is a value that nobody can change.
var quiet = []string{"errors.New", "fmt.Errorf", "os.Getpagesize", "os.Getpid", "regexp.MustCompile"}

// A house is the whole tree, held to the rules that no linter knows.
type house struct {
	fset   *token.FileSet
	faults []string
	used   map[string]bool // excuses
}

func (h *house) fault(s source, name string, at token.Pos, format string, args ...any) {
	if excuse := s.path + " " + name; excused[excuse] != "" {
		h.used[excuse] = true
		return
	}
	h.faults = append(h.faults, fmt.Sprintf("%s:%d: %s: %s", s.path, h.fset.Position(at).Line, name, fmt.Sprintf(format, args...)))
}

// calls holds one file to the rules about calls: who may exit, read the
// environment, begin a context, sleep, and how errors are worded.
func (h *house) calls(s source) {
	cmd := within(s.folder(), "cmd")
	for _, decl := range s.file.Decls {
		name := "package level"
		if f, ok := decl.(*ast.FuncDecl); ok {
			name = f.Name.Name
			if name == "init" && f.Recv == nil {
				h.fault(s, name, f.Pos(), "importing a package does nothing by itself: make it a function that somebody calls")
			}
		}
		var stack []ast.Node
		ast.Inspect(decl, func(n ast.Node) bool {
			if n == nil {
				stack = stack[:len(stack)-1]
				return true
			}
			stack = append(stack, n)
			selector, ok := n.(*ast.SelectorExpr)
			if ok {
				h.selector(s, cmd, name, selector, stack)
			}
			if call, ok := n.(*ast.CallExpr); ok && !s.forTests() {
				h.wording(s, name, call)
			}
			return true
		})
	}
}

// selector looks at one pkg.Name.
func (h *house) selector(s source, cmd bool, name string, e *ast.SelectorExpr, stack []ast.Node) {
	if strings.HasSuffix(s.path, "_test.go") && imported(s.file, e, "time", "Sleep") && !inBubble(s.file, stack) {
		h.fault(s, name, e.Pos(), "a test waits for the event, or for synctest's clock; never by time.Sleep")
	}
	if s.forTests() || cmd {
		return
	}
	switch {
	case imported(s.file, e, "os", "Exit"), imported(s.file, e, "runtime", "Goexit"), imported(s.file, e, "syscall", "Exit"):
		h.fault(s, name, e.Pos(), "only a program in cmd/ exits; return an error")
	case imported(s.file, e, "log/slog", "SetDefault"),
		imported(s.file, e, "log/slog", "Info"), imported(s.file, e, "log/slog", "Warn"), imported(s.file, e, "log/slog", "Error"):
		h.fault(s, name, e.Pos(), "log through the *slog.Logger that was handed in; only cmd/ knows the default one")
	case imported(s.file, e, "os", "Getenv"), imported(s.file, e, "os", "LookupEnv"), imported(s.file, e, "os", "Environ"),
		imported(s.file, e, "os", "Setenv"), imported(s.file, e, "os", "Unsetenv"), imported(s.file, e, "os", "Args"):
		h.fault(s, name, e.Pos(), "only a program in cmd/ reads its environment; take the value as a parameter")
	case imported(s.file, e, "context", "Background"), imported(s.file, e, "context", "TODO"):
		h.fault(s, name, e.Pos(), "a context made up on the way cannot be cancelled by the asker; take ctx as a parameter")
	}
}

// wording looks at the text of a new error.
func (h *house) wording(s source, name string, call *ast.CallExpr) {
	e, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || len(call.Args) == 0 || !(imported(s.file, e, "errors", "New") || imported(s.file, e, "fmt", "Errorf")) {
		return
	}
	text, ok := call.Args[0].(*ast.BasicLit)
	if !ok {
		return
	}
	for _, word := range []string{"failed to", "could not", "unable to", "error "} {
		if strings.HasPrefix(strings.Trim(text.Value, "\"`"), word) {
			h.fault(s, name, call.Pos(), "an error says what, not %q: the reader knows that it went wrong", word)
		}
	}
}

// imported reports whether e is name in the package that the file imports from
// path.
func imported(file *ast.File, e *ast.SelectorExpr, from, name string) bool {
	x, ok := e.X.(*ast.Ident)
	if !ok || e.Sel.Name != name {
		return false
	}
	for _, spec := range file.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err != nil || p != from {
			continue
		}
		if spec.Name != nil {
			return x.Name == spec.Name.Name
		}
		return x.Name == path.Base(from)
	}
	return false
}

// inBubble reports whether the innermost node lies in a function that is given
// to synctest.Test, where time is the test's own. A test helper that makes such
// a bubble is called inBubble, too.
func inBubble(file *ast.File, stack []ast.Node) bool {
	for _, n := range stack {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			continue
		}
		switch f := call.Fun.(type) {
		case *ast.Ident:
			if f.Name == "inBubble" {
				return true
			}
		case *ast.SelectorExpr:
			if imported(file, f, "testing/synctest", "Test") {
				return true
			}
		}
	}
	return false
}

// variables holds one package to the rule that no state is global: a variable
// of a package is a constant that Go cannot write as one.
func (h *house) variables(sources []source) {
	info := &types.Info{
		Defs:       map[*ast.Ident]types.Object{},
		Uses:       map[*ast.Ident]types.Object{},
		Types:      map[ast.Expr]types.TypeAndValue{},
		Selections: map[*ast.SelectorExpr]*types.Selection{},
	}
	files := make([]*ast.File, len(sources))
	for i, s := range sources {
		files[i] = s.file
	}
	// What is imported stays unknown, and with it some types: enough is left to
	// tell which name means which variable.
	config := types.Config{Importer: strangers{}, Error: func(error) {}}
	_, _ = config.Check(sources[0].folder(), h.fset, files, info)

	global := map[types.Object]source{}
	for _, s := range sources {
		for _, decl := range s.file.Decls {
			vars, ok := decl.(*ast.GenDecl)
			if !ok || vars.Tok != token.VAR {
				continue
			}
			for _, spec := range vars.Specs {
				if spec := spec.(*ast.ValueSpec); !embedded(vars.Doc) && !embedded(spec.Doc) {
					h.variable(s, spec, info, global)
				}
			}
		}
	}
	for _, s := range sources {
		ast.Inspect(s.file, func(n ast.Node) bool {
			for _, changed := range changes(n, info) {
				v := info.Uses[root(changed)]
				if home, ok := global[v]; ok {
					h.fault(home, v.Name(), v.Pos(), "this package variable is changed at %s:%d; state belongs to a value that somebody owns",
						s.path, h.fset.Position(n.Pos()).Line)
				}
			}
			return true
		})
	}
}

// embedded reports whether the compiler gives the variable its value.
func embedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool {
		return strings.HasPrefix(c.Text, "//go:embed ")
	})
}

// variable looks at one declaration and notes its names.
func (h *house) variable(s source, spec *ast.ValueSpec, info *types.Info, global map[types.Object]source) {
	for i, name := range spec.Names {
		if name.Name == "_" {
			continue
		}
		global[info.Defs[name]] = s
		var value ast.Expr
		if len(spec.Values) == len(spec.Names) {
			value = spec.Values[i]
		}
		if why := mutable(s.file, value); why != "" {
			h.fault(s, name.Name, name.Pos(), "this package variable %s; state belongs to a value that somebody owns", why)
		}
	}
}

// mutable says why a variable with that first value is meant to be changed.
func mutable(file *ast.File, value ast.Expr) string {
	switch v := value.(type) {
	case nil:
		return "has no value yet, so that somebody will change it"
	case *ast.UnaryExpr:
		if v.Op == token.AND {
			return "points to something that can change"
		}
	case *ast.CallExpr:
		if f, ok := v.Fun.(*ast.Ident); ok && (f.Name == "make" || f.Name == "new") {
			return "holds something that is filled later"
		}
		if e, ok := v.Fun.(*ast.SelectorExpr); ok {
			for _, name := range quiet {
				dot := strings.LastIndexByte(name, '.')
				if imported(file, e, name[:dot], name[dot+1:]) {
					return ""
				}
			}
			return "holds what a function returned, which can change"
		}
	}
	return ""
}

// changes returns the expressions that n changes, or lets others change.
func changes(n ast.Node, info *types.Info) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			return []ast.Expr{n.Key, n.Value}
		}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			return []ast.Expr{n.X}
		}
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "delete" || f.Name == "clear" || f.Name == "copy") && len(n.Args) > 0 {
			return n.Args[:1]
		}
		if e, ok := n.Fun.(*ast.SelectorExpr); ok {
			// A method on a pointer to the variable, taken silently.
			if m := info.Selections[e]; m != nil && m.Kind() == types.MethodVal {
				_, pointer := m.Obj().(*types.Func).Signature().Recv().Type().(*types.Pointer)
				_, already := m.Recv().Underlying().(*types.Pointer)
				if pointer && !already {
					return []ast.Expr{e.X}
				}
			}
		}
	}
	return nil
}

// root returns the variable that x is, or is a part of.
func root(x ast.Expr) *ast.Ident {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e
		case *ast.ParenExpr:
			x = e.X
		case *ast.SelectorExpr:
			x = e.X
		case *ast.IndexExpr:
			x = e.X
		case *ast.SliceExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// strangers imports every package as an empty one.
type strangers struct{}

func (strangers) Import(from string) (*types.Package, error) {
	p := types.NewPackage(from, path.Base(from))
	p.MarkComplete()
	return p, nil
}

// inspect holds all sources to all rules.
func inspect(fset *token.FileSet, sources []source) *house {
	h := &house{fset: fset, used: map[string]bool{}}
	packages := map[string][]source{}
	for _, s := range sources {
		h.calls(s)
		if !s.forTests() {
			packages[s.folder()] = append(packages[s.folder()], s)
		}
	}
	for _, files := range packages {
		h.variables(files)
	}
	slices.Sort(h.faults)
	return h
}

// TestHouse holds the tree to the rules of the house.
func TestHouse(t *testing.T) {
	h := inspect(tree(t))
	for _, fault := range h.faults {
		t.Error(fault)
	}
	for excuse := range excused {
		if !h.used[excuse] {
			t.Errorf("%s: nothing there needs an excuse any more; take it out of house_test.go", excuse)
		}
	}
}

// TestHouseRulesBite breaks each rule in a file of a few lines.
func TestHouseRulesBite(t *testing.T) {
	for _, c := range []struct {
		name, path, code string
		want             []string // empty: allowed
	}{
		{"init", "keyring/x.go", `func init() {}`, []string{"keyring/x.go:2: init:", "nothing by itself"}},
		{"a method called init", "keyring/x.go", `type t int; func (t) init() {}`, nil},
		{"exit outside cmd", "keyring/x.go", `import "os"; func f() { os.Exit(1) }`, []string{"only a program in cmd/ exits"}},
		{"exit under another name", "keyring/x.go", `import sys "os"; func f() { sys.Exit(1) }`, []string{"only a program in cmd/ exits"}},
		{"exit in cmd", "cmd/keyringd/x.go", `import "os"; func main() { os.Exit(1) }`, nil},
		{"environment", "agent/x.go", `import "os"; var home = map[string]string{"a": os.Getenv("HOME")}`, []string{"package level", "take the value as a parameter"}},
		{"environment in a test", "agent/x_test.go", `import "os"; func f() { os.Getenv("HOME") }`, nil},
		{"default logger", "agent/x.go", `import "log/slog"; func f() { slog.Info("x") }`, []string{"handed in"}},
		{"a logger", "agent/x.go", `import "log/slog"; func f(l *slog.Logger) { l.Info("x") }`, nil},
		{"context", "agent/x.go", `import "context"; func f() { g(context.TODO()) }`, []string{"cannot be cancelled by the asker"}},
		{"an excused context", "keyring/journal.go", `import "context"; func log() { g(context.Background()) }`, nil},
		{"sleep in a test", "agent/x_test.go", `import "time"; func f() { time.Sleep(1) }`, []string{"never by time.Sleep"}},
		{"sleep in a bubble", "agent/x_test.go",
			`import ("testing"; "testing/synctest"; "time"); func f(t *testing.T) { synctest.Test(t, func(t *testing.T) { time.Sleep(1) }) }`, nil},
		{"sleep beside a bubble", "agent/x_test.go",
			`import ("testing"; "testing/synctest"; "time"); func f(t *testing.T) { synctest.Test(t, g); time.Sleep(1) }`, []string{"never by time.Sleep"}},
		{"failed to", "agent/x.go", `import "fmt"; func f() error { return fmt.Errorf("failed to sign: %w", g()) }`, []string{`not "failed to"`}},

		{"a variable without a value", "tpm/x.go", `var count int`, []string{"tpm/x.go:2: count:", "no value yet"}},
		{"a pointer", "tpm/x.go", `type t struct{}; var shared = &t{}`, []string{"points to something"}},
		{"a made map", "tpm/x.go", `var cache = make(map[string]int)`, []string{"filled later"}},
		{"a call", "tpm/x.go", `import "big"; var n = big.New(1)`, []string{"what a function returned"}},
		{"an assignment", "tpm/x.go", `var limit = 3; func f() { limit = 4 }`, []string{"changed at tpm/x.go:2"}},
		{"an element", "tpm/x.go", `var table = map[int]int{}; func f() { table[1]++ }`, []string{"changed at"}},
		{"a deletion", "tpm/x.go", `var table = map[int]int{1: 1}; func f() { delete(table, 1) }`, []string{"changed at"}},
		{"an address", "tpm/x.go", `var limit = 3; func f() *int { return &limit }`, []string{"changed at"}},
		{"a silent address", "tpm/x.go", `type t int; func (p *t) inc() {}; var limit = t(3); func f() { limit.inc() }`, []string{"changed at"}},
		{"a local of the same name", "tpm/x.go", `var limit = 3; func f() { limit := limit; limit = 4; _ = limit }`, nil},
		{"a table", "tpm/x.go", `var table = map[int]int{1: 2}; func f() int { return table[1] }`, nil},
		{"a sentinel", "tpm/x.go", `import "errors"; var ErrGone = errors.New("gone")`, nil},
		{"an assertion", "tpm/x.go", `type t struct{}; type i interface{}; var _ i = (*t)(nil)`, nil},
		{"an embedded file", "dbus/x.go", "import _ \"embed\"\n//go:embed a.xml\nvar text string", nil},
		{"a test's variable", "tpm/x_test.go", `var count int`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, c.path, "package x\n"+c.code, parser.SkipObjectResolution|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			wantFault(t, inspect(fset, []source{{c.path, file}}).faults, c.want)
		})
	}
}
