package agent

import "fmt"

// The extensions that are served: query asks for their names (RFC 9987 §4.7.1),
// session-bind says which SSH connection this one serves (OpenSSH,
// PROTOCOL.agent §1).
const (
	extensionQuery = "query"
	extensionBind  = "session-bind@openssh.com"
)

// extension answers an EXTENSION request. An unknown one gets FAILURE at once,
// as some clients try theirs first and wait for the answer; a known one that
// fails gets EXTENSION_FAILURE.
func (s *session) extension(body []byte) []byte {
	d := decoder{rest: body}
	name := d.text()
	if d.bad {
		return s.fail(fmt.Errorf("extension: %w", errMalformed))
	}
	switch name {
	case extensionQuery:
		b := newFrame(msgExtensionResponse, 64)
		for _, text := range []string{extensionQuery, extensionQuery, extensionBind} {
			b = appendString(b, text)
		}
		return endFrame(b)
	case extensionBind:
		err := s.bound.bind(d.rest)
		s.upstream.bind(body) // also one that is refused: the asker is no local one any more
		if err != nil {
			return s.fail(fmt.Errorf("%w: %w", errBinding, err))
		}
		return successReply
	}
	return s.fail(fmt.Errorf("extension %s: %w", quote([]byte(name)), errNotServed))
}
