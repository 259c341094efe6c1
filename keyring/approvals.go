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
	Until   time.Time
}

type approvalKey struct{ id, program, scope string }

// confirm asks for permission, unless it was given a short while ago.
func (g *Gate) confirm(ctx context.Context, u Use) error {
	// A permission is remembered for a program, so there must be one: "unknown"
	// would be everybody.
	remember := g.Remember > 0 && u.Caller.Program != ""
	ask := func() error {
		q := prompt.Question{Kind: prompt.Confirm}
		if remember {
			q.Remember = g.Remember
		}
		answer, err := g.ask(ctx, u, q)
		answer.Passphrase.Wipe()
		if err == nil && remember {
			g.approve(u)
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

func (g *Gate) approve(u Use) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pruneLocked()
	g.approved++
	g.approvals[approvalKey{u.ID, u.Caller.Program, u.Scope}] = Approval{
		ID: g.approved, Key: u.ID, Subject: u.Subject, Program: u.Caller.Program, Scope: u.Scope,
		Given: now, Until: now.Add(g.Remember),
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
		if age(a.Given) >= g.Remember {
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
