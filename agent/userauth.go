package agent

const (
	msgUserauthRequest = 50 // RFC 4252 §6
	serviceConnection  = "ssh-connection"
	methodPublicKey    = "publickey"
	// methodHostBound is OpenSSH's publickey with the server's host key in what
	// is signed (OpenSSH, PROTOCOL §3.1).
	methodHostBound = "publickey-hostbound-v00@openssh.com"
)

// A userauth is the data that a client signs to log in with a key, RFC 4252 §7.
// Its fields are parts of the data they were parsed from.
type userauth struct {
	sessionID []byte
	user      []byte
	algorithm []byte // the signature algorithm, by its SSH name
	blob      []byte // the key that logs in
	hostKey   []byte // the server's host key blob; nil: the method does not tell
}

// parseUserauth reports false unless data is exactly such a request.
func parseUserauth(data []byte) (userauth, bool) {
	d := decoder{rest: data}
	var u userauth
	u.sessionID = d.string()
	kind := d.byte()
	u.user = d.string()
	service := d.string()
	method := string(d.string())
	signed := d.byte()
	u.algorithm = d.string()
	u.blob = d.string()
	if method == methodHostBound {
		if u.hostKey = d.string(); len(u.hostKey) == 0 {
			return userauth{}, false
		}
	}
	ok := d.done() && kind == msgUserauthRequest && string(service) == serviceConnection &&
		(method == methodPublicKey || method == methodHostBound) &&
		signed == 1 && len(u.sessionID) > 0 && len(u.algorithm) > 0 && len(u.blob) > 0
	if !ok {
		return userauth{}, false
	}
	return u, true
}
