package prompt

// An Expecter is a [Prompter] that can get ready for a question before it is
// put. Expect says that one is likely within seconds. It returns at once, may be
// called often and by anybody, shows nothing, and may do nothing.
type Expecter interface {
	Expect()
}

// Expect implements [Expecter]: while something is on screen, whoever shows it
// sees to what comes next.
func (q *Queue) Expect() {
	e, ok := q.p.(Expecter)
	if !ok {
		return
	}
	q.mu.Lock()
	idle := !q.busy && !q.closed
	q.mu.Unlock()
	if idle {
		e.Expect()
	}
}
