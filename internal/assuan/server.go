package assuan

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/keyringd/keyringd/internal/secret"
)

// A Handler carries out one command. The reply is OK, or ERR with an *[Error]
// that it returns (any other error becomes [CodeGeneral]).
type Handler func(r *Request) error

// A Request is one command and the way to answer it. It is valid until its
// Handler returns.
type Request struct {
	Name string // in upper case
	Arg  string // what follows the name, unescaped
	s    *Server
	err  error // a transport's error, that the handler may not have returned
}

// A Server is the side that carries out commands. NOP and BYE are its own;
// RESET succeeds if there is no Handler for it; commands without a Handler get
// [CodeUnknownCommand].
type Server struct {
	wire
	handlers map[string]Handler
}

// NewServer returns a server that reads commands from r, writes replies to w,
// and calls handlers by a command's name in upper case. It owns neither.
func NewServer(r io.Reader, w io.Writer, handlers map[string]Handler) *Server {
	return &Server{wire: newWire(r, w), handlers: handlers}
}

// Serve greets and carries out commands, one after the other, until BYE or the
// end of input, where it returns nil, or an error of the transport.
func (s *Server) Serve(greeting string) error {
	defer s.wipe()
	if err := s.ok(greeting); err != nil {
		return err
	}
	for {
		req := &Request{s: s}
		err := s.readLine(req.parse)
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, ErrProtocol):
			err = s.fail(Errorf(CodeParameter, "malformed command"))
		case err == nil:
			if req.Name == "BYE" {
				return s.ok("closing connection")
			}
			err = s.run(req)
		}
		if err != nil {
			return err
		}
	}
}

func (r *Request) parse(line []byte) error {
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	name, rest := word(line)
	arg, err := unescape(rest)
	if err != nil {
		return err
	}
	r.Name, r.Arg = strings.ToUpper(string(name)), string(arg)
	return nil
}

func (s *Server) run(req *Request) error {
	h := s.handlers[req.Name]
	switch {
	case req.Name == "": // a comment
		return nil
	case req.Name == "NOP", h == nil && req.Name == "RESET":
		return s.ok("")
	case h == nil:
		return s.fail(Errorf(CodeUnknownCommand, "unknown command"))
	}
	err := h(req)
	if req.err != nil {
		return req.err
	}
	if err == nil {
		return s.ok("")
	}
	var e *Error
	if !errors.As(err, &e) {
		e = Errorf(CodeGeneral, "%v", err)
	}
	return s.fail(e)
}

func (s *Server) ok(text string) error { return s.say("OK", text) }

func (s *Server) fail(e *Error) error { return s.say("ERR", fmt.Sprintf("%d %s", e.Code, e.Text)) }

// say writes a line of which the text is for people, cut where it is too long.
func (s *Server) say(kind, text string) error {
	return s.writeLine(func(b []byte) []byte {
		b = append(b, kind...)
		if text == "" {
			return b
		}
		b = append(b, ' ')
		for i := 0; i < len(text) && len(b)+3 <= MaxLine; i++ {
			b = appendEscaped(b, []byte{text[i]})
		}
		return b
	})
}

// note remembers an error of the transport, so that Serve ends.
func (r *Request) note(err error) error {
	if err != nil && r.err == nil {
		r.err = err
	}
	return err
}

// Data sends data of the reply. The bytes are borrowed.
func (r *Request) Data(data secret.Bytes) error {
	var err error
	data.Use(func(p []byte) { err = r.s.writeData(p) })
	return r.note(err)
}

// Status sends a status line. The text is escaped, and cut where it is too
// long.
func (r *Request) Status(keyword, text string) error {
	return r.note(r.s.say("S "+keyword, text))
}

// Comment sends a line that clients show to people, or skip.
func (r *Request) Comment(text string) error { return r.note(r.s.say("#", text)) }

// Inquire asks the client for at most limit bytes, which are the caller's to
// Wipe. A client that declines is an *[Error] with [CodeCanceled].
func (r *Request) Inquire(keyword, arg string, limit int) (secret.Bytes, error) {
	if err := r.note(r.s.say("INQUIRE "+keyword, arg)); err != nil {
		return secret.Bytes{}, err
	}
	return r.reply(limit)
}

// InquireAbout is Inquire with a secret as its argument, which is written as
// clients of pinentry expect it: escaped, with "+" for a space, and cut where
// it is too long for a line.
func (r *Request) InquireAbout(keyword string, about secret.Bytes, limit int) (secret.Bytes, error) {
	var err error
	about.Use(func(p []byte) {
		err = r.s.writeLine(func(line []byte) []byte {
			line = append(append(line, "INQUIRE "...), keyword...)
			line = append(line, ' ')
			for i := 0; i < len(p) && len(line) <= MaxLine-3; i++ {
				line = appendPlusEscaped(line, p[i])
			}
			return line
		})
	})
	if err != nil {
		return secret.Bytes{}, r.note(err)
	}
	return r.reply(limit)
}

// reply reads the answer to an inquiry.
func (r *Request) reply(limit int) (secret.Bytes, error) {
	data := collector{limit: limit}
	defer data.wipe()
	var declined error
	for done := false; !done; {
		err := r.s.readLine(func(line []byte) error {
			kind, rest := word(line)
			switch string(kind) {
			case "END":
				done = true
			case "CAN":
				declined = Errorf(CodeCanceled, "the client declined")
				done = true
			case "D":
				p, err := unescape(rest)
				if err != nil {
					return err
				}
				return data.add(p)
			default:
				if len(line) > 0 && line[0] != '#' {
					return fmt.Errorf("unexpected line in an inquiry: %w", ErrProtocol)
				}
			}
			return nil
		})
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return secret.Bytes{}, r.note(err)
		}
	}
	if declined != nil {
		return secret.Bytes{}, declined
	}
	return data.take(), nil
}
