package agent

import "fmt"

// extensionQuery asks for the names of the extensions that are served.
const extensionQuery = "query"

// extension answers an EXTENSION request. An unknown one gets FAILURE at once:
// every ssh begins with session-bind@openssh.com, and waits for the answer.
func (s *session) extension(body []byte) []byte {
	d := decoder{rest: body}
	name := d.string()
	if d.bad {
		return s.fail(fmt.Errorf("extension: %w", errMalformed))
	}
	if string(name) == extensionQuery {
		b := newFrame(msgExtensionResponse, 32)
		b = appendString(b, extensionQuery)
		b = appendString(b, extensionQuery)
		return endFrame(b)
	}
	return s.fail(fmt.Errorf("extension %s: %w", quote(name), errNotServed))
}
