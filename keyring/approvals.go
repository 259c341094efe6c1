package keyring

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keyringd/keyringd/prompt"
)

// An Approval is a permission that stands for a while: the user allowed one
// program to use one key, in one scope.
type Approval struct {
	ID      uint64 // names it for [Gate.Revoke]; never used twice by one Gate
	Key     string // Use.ID
	Subject string
	Program string
	Scope   string
	Given   time.Time
	Until   time.Time // zero: until Lock
}

type approvalKey struct{ id, program, scope string }

// confirm asks for permission, unless it was given a short while ago.
func (g *Gate) confirm(ctx context.Context, u Use) error {
	// A permission is remembered for a program, so there must be one: "unknown"
	// would be everybody. What asks from another machine is whatever runs there.
	remember := g.Remembering() > 0 && u.Caller.Program != "" && !u.Forwarded
	ask := func() error {
		q := prompt.Question{Kind: prompt.Confirm, Terms: remember}
		if remember {
			q.Remember = g.Remembering()
		}
		answer, err := g.ask(ctx, u, q)
		answer.Passphrase.Wipe()
		if err == nil && remember {
			g.approve(u, answer)
		}
		return err
	}
	if !remember {
		return ask()
	}
	if g.isApproved(u) {
		return nil
	}
	q := question{id: u.ID, confirm: true, program: u.Caller.Program, scope: u.Scope}
	return g.inTurn(ctx, u, q, func() (bool, error) { return g.isApproved(u), nil }, ask)
}

// approve remembers a permission for as long as the user said; a prompter that
// cannot ask leaves it at Remember.
func (g *Gate) approve(u Use, answer prompt.Answer) {
	now := time.Now()
	until := now.Add(g.Remembering())
	if answer.Chosen {
		switch answer.Term {
		case prompt.ForAWhile:
		case prompt.UntilLock:
			until = time.Time{}
		default:
			return
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pruneLocked()
	g.approved++
	g.approvals[approvalKey{u.ID, u.Caller.Program, u.Scope}] = Approval{
		ID: g.approved, Key: u.ID, Subject: u.Subject, Program: u.Caller.Program, Scope: u.Scope,
		Given: now, Until: until,
	}
}

func (g *Gate) isApproved(u Use) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pruneLocked()
	_, ok := g.approvals[approvalKey{u.ID, u.Caller.Program, u.Scope}]
	return ok
}

// pruneLocked drops what has run out. Approvals hold no secret, so that it is
// enough to do so whenever they are looked at.
func (g *Gate) pruneLocked() {
	for k, a := range g.approvals {
		if !a.Until.IsZero() && age(a.Given) >= g.Remembering() {
			delete(g.approvals, k)
		}
	}
}

// Approvals lists the permissions that stand now, the oldest first.
func (g *Gate) Approvals() []Approval {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pruneLocked()
	list := make([]Approval, 0, len(g.approvals))
	for _, a := range g.approvals {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b Approval) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Revoke ends an approval, so that the next use asks again. ErrNotFound if it
// does not stand.
func (g *Gate) Revoke(id uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pruneLocked()
	for k, a := range g.approvals {
		if a.ID == id {
			delete(g.approvals, k)
			return nil
		}
	}
	return fmt.Errorf("approval %d: %w", id, ErrNotFound)
}
