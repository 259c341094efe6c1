package assuan

import (
	"bytes"
	"fmt"
	"io"
	"strconv"

	"github.com/keyringd/keyringd/internal/secret"
)

const (
	// maxData bounds the data of one reply. A passphrase has tens of bytes.
	maxData = 16 << 10
	// maxReply bounds all lines of one reply: more than a chatty program's
	// comments and status lines, and soon reached by one that never ends.
	maxReply = 256 << 10
)

// A Client is the side that sends commands. It is used by one goroutine at a
// time; Close may be called by another.
type Client struct {
	wire
	// Status is called for each status line of a reply, if it is not nil. The
	// text is from the other side, not sanitised.
	Status func(keyword, text string)
}

// NewClient returns a client that reads replies from r and writes commands to
// w. It owns neither: close them to end a wait.
func NewClient(r io.Reader, w io.Writer) *Client { return &Client{wire: newWire(r, w)} }

// Close overwrites the client's buffers. It waits for a running command.
func (c *Client) Close() { c.wipe() }

// Greeting reads the line by which a server says that it is ready.
func (c *Client) Greeting() error {
	data, err := c.reply()
	data.Wipe()
	return err
}

// Do sends a command and returns the data of its reply, which is the caller's
// to Wipe. The command is sent as it is: use [Escape] for its arguments. An
// inquiry of the server is cancelled.
//
// A server that has already said more than it was asked for is out of step: what
// it says next could be taken for the answer to this command, which is not sent.
//
// An *[Error] is the server's answer; after any other error the connection is
// useless.
func (c *Client) Do(command string) (secret.Bytes, error) {
	if c.ahead() {
		return secret.Bytes{}, fmt.Errorf("an answer without a question: %w", ErrProtocol)
	}
	if err := c.writeLine(func(b []byte) []byte { return append(b, command...) }); err != nil {
		return secret.Bytes{}, err
	}
	return c.reply()
}

// reply reads up to the line that ends a reply.
func (c *Client) reply() (secret.Bytes, error) {
	data := collector{limit: maxData}
	defer data.wipe()
	budget := maxReply
	for {
		done, inquired := false, false
		err := c.readLine(func(line []byte) error {
			if budget -= len(line) + 1; budget < 0 {
				return fmt.Errorf("reply: %w", ErrTooLong)
			}
			kind, rest := word(line)
			switch string(kind) {
			case "OK":
				done = true
			case "ERR":
				return parseError(rest)
			case "D":
				p, err := unescape(rest)
				if err != nil {
					return err
				}
				return data.add(p)
			case "S":
				if c.Status != nil {
					keyword, text := word(rest)
					c.Status(string(keyword), string(text))
				}
			case "INQUIRE":
				inquired = true
			default:
				if len(line) > 0 && line[0] != '#' {
					return fmt.Errorf("unexpected line: %w", ErrProtocol)
				}
			}
			return nil
		})
		if err == nil && inquired {
			err = c.writeLine(func(b []byte) []byte { return append(b, "CAN"...) })
		}
		if err != nil {
			return secret.Bytes{}, err
		}
		if done {
			return data.take(), nil
		}
	}
}

// parseError parses what follows ERR.
func parseError(rest []byte) error {
	number, text := word(bytes.TrimLeft(rest, " "))
	code, err := strconv.ParseUint(string(number), 10, 32)
	if err != nil {
		return fmt.Errorf("malformed error code: %w", ErrProtocol)
	}
	return &Error{Code: uint32(code), Text: string(text)}
}
