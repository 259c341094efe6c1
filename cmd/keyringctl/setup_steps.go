package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/keyringd/keyringd/internal/atomicfile"
)

// A step is one thing that setup does, and how it is undone: a file that is
// written, or a command that is run.
type step struct {
	Say      string   `json:"say"` // to the user, after which comes what exactly
	File     string   `json:"file,omitempty"`
	Text     string   `json:"text,omitempty"`
	Before   *string  `json:"before,omitempty"` // what was in the file; nil: there was none
	Run      []string `json:"run,omitempty"`
	Undo     []string `json:"undo,omitempty"` // empty: nothing is to be undone
	Optional bool     `json:"-"`              // it may fail
}

// what says exactly what a step does.
func (s step) what() string {
	if s.File != "" {
		return "write " + s.File
	}
	return shellWords(s.Run)
}

// shellWords is a command as one would type it.
func shellWords(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		words[i] = shellWord(w)
	}
	return strings.Join(words, " ")
}

func shellWord(w string) string {
	if w != "" && strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_.,:+-=@%") == "" {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// record is the file in which it is kept what is to be undone.
func (m machine) record() string {
	return filepath.Join(m.xdg("XDG_STATE_HOME", ".local/state"), "keyringd", "setup.json")
}

// done returns the steps that were done and not undone, the oldest first.
func (m machine) done() ([]step, error) {
	data, err := os.ReadFile(m.record())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var steps []step
	if err := json.Unmarshal(data, &steps); err != nil {
		return nil, fmt.Errorf("%s: %w", m.record(), err)
	}
	return steps, nil
}

// keep writes down what is to be undone.
func (m machine) keep(steps []step) error {
	if len(steps) == 0 {
		err := os.Remove(m.record())
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	if err := e.Encode(steps); err != nil {
		return err
	}
	return writeFile(m.record(), b.String(), 0o600)
}

func writeFile(path, text string, perm fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	staged, err := atomicfile.Stage(nil, atomicfile.File{Path: path, Data: []byte(text), Perm: perm, Replace: true})
	if err != nil {
		return err
	}
	return staged.Commit()
}

// readText returns a file's content; what cannot be read is empty.
func readText(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// do does the steps in turn. Each is written down before it is done, so that
// what was begun can be undone whatever happens.
func (m machine) do(ctx context.Context, steps []step) error {
	done, err := m.done()
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.File != "" {
			old, err := os.ReadFile(s.File)
			switch {
			case err == nil && string(old) == s.Text:
				continue // as it should be
			case err == nil:
				text := string(old)
				s.Before = &text
			case !errors.Is(err, fs.ErrNotExist):
				return err
			}
			// Written twice, the first content is what undoing brings back.
			if i := slices.IndexFunc(done, func(d step) bool { return d.File == s.File }); i >= 0 {
				s.Before = done[i].Before
				done = slices.Delete(done, i, i+1)
			}
		}
		if _, err := fmt.Fprintf(m.Out, "%s: %s\n", s.Say, printable(s.what())); err != nil {
			return err
		}
		undone := s.File != "" || len(s.Undo) > 0
		if undone && !slices.ContainsFunc(done, func(d step) bool { return s.File == "" && reflect.DeepEqual(d.Run, s.Run) }) {
			done = append(done, s)
			if err := m.keep(done); err != nil {
				return err
			}
		}
		if s.File != "" {
			err = writeFile(s.File, s.Text, 0o644)
		} else {
			_, err = m.run(ctx, s.Run)
		}
		if err != nil && !s.Optional {
			return hintedError{err, "keyringctl setup --undo takes back what was done so far"}
		}
	}
	return nil
}

// undo takes back what was done, the latest first. What cannot be is said, and
// the rest goes on.
func (m machine) undo(ctx context.Context) error {
	done, err := m.done()
	if err != nil {
		return err
	}
	var left []step
	var errs []error
	for _, s := range slices.Backward(done) {
		switch {
		case s.File != "" && readText(s.File) != s.Text:
			// Somebody has changed it since, who knows better.
			_, err = fmt.Fprintf(m.Out, "leave as it is, because it has changed: %s\n", printable(s.File))
		case s.File != "" && s.Before == nil:
			_, _ = fmt.Fprintf(m.Out, "remove %s\n", printable(s.File))
			if err = os.Remove(s.File); errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		case s.File != "":
			_, _ = fmt.Fprintf(m.Out, "put back %s\n", printable(s.File))
			err = writeFile(s.File, *s.Before, 0o644)
		case len(s.Undo) > 0:
			_, _ = fmt.Fprintln(m.Out, printable(shellWords(s.Undo)))
			_, err = m.run(ctx, s.Undo)
		}
		if err != nil {
			left, errs = append(left, s), append(errs, err)
		}
		err = nil
	}
	slices.Reverse(left)
	return errors.Join(append(errs, m.keep(left))...)
}
