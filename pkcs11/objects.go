package pkcs11

import (
	"crypto/x509"
	"log/slog"

	"github.com/keyringd/keyringd/keyring"
	"github.com/keyringd/keyringd/pkcs11/p11rpc"
)

// An object is one public key, private key or certificate on a token. It never
// changes.
type object struct {
	name   objectName
	handle uint64
	label  string
	key    *publicKey
	cert   *x509.Certificate // of class certificate
	other  *x509.Certificate // of the other classes: the key's first certificate, nil if it has none
}

// An objectName is what makes an object the same one after a change: an object
// keeps its handle as long as it keeps its name.
type objectName struct {
	slot  uint64
	class p11rpc.Class
	key   keyring.KeyID
	cert  certID
}

// A snapshot is all objects at one generation of keys and certificates.
type snapshot struct {
	keys, certs uint64 // generations
	list        []*object
	byHandle    map[uint64]*object
	tokens      map[uint64]bool // the slots that have one; true: with keys
}

// present reports whether a slot has a token.
func (s *snapshot) present(slot uint64) bool {
	_, ok := s.tokens[slot]
	return ok
}

// objects returns what there is now. It is cheap as long as keys and
// certificates stay the same.
func (s *Server) objects() *snapshot {
	// The generations are read before the keys: should they change between the
	// two, the snapshot is made anew at the next request.
	keys, certs := s.keys.Generation(), s.certs.generation()
	if now := s.current.Load(); now != nil && now.keys == keys && now.certs == certs {
		return now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.current.Load()
	if old != nil && old.keys == keys && old.certs == certs {
		return old
	}
	next := &snapshot{keys: keys, certs: certs, byHandle: map[uint64]*object{}, tokens: map[uint64]bool{}}
	if s.maker != nil {
		next.tokens[slotOf(keyring.KindTPM)] = false // there may not be a key yet
	}
	handles := map[objectName]uint64{}
	if old != nil {
		for _, o := range old.list {
			handles[o.name] = o.handle
		}
	}
	for _, info := range s.keys.List() {
		for _, o := range s.objectsOf(info) {
			if o.handle = handles[o.name]; o.handle == 0 {
				o.handle = s.nextHandle()
			}
			next.list = append(next.list, o)
			next.byHandle[o.handle] = o
			next.tokens[o.name.slot] = true
		}
	}
	s.current.Store(next)
	return next
}

// nextHandle returns a number that was never given to an object before, so that
// a program's old handle never means another one.
func (s *Server) nextHandle() uint64 { return s.handle.Add(1) }

// objectsOf returns the objects of one key, without handles: none for a key that
// PKCS#11 has no name for.
func (s *Server) objectsOf(info keyring.KeyInfo) []*object {
	key, err := newPublicKey(info.Public)
	if err != nil {
		s.journal.log.Debug("key not offered", slog.String("key", info.Label), slog.Any("err", err))
		return nil
	}
	key.tpm, key.usages, key.origin = info.Kind == keyring.KindTPM, info.Usages, info.Origin
	certs := s.certs.of(info.ID)
	base := object{label: info.Label, key: key}
	if len(certs) > 0 {
		base.other = certs[0].cert
	}
	name := objectName{slot: slotOf(info.Kind), key: info.ID}
	var list []*object
	for _, class := range []p11rpc.Class{p11rpc.ClassPublicKey, p11rpc.ClassPrivateKey} {
		o := base
		o.name = name
		o.name.class = class
		list = append(list, &o)
	}
	for _, c := range certs {
		o := base
		o.name = name
		o.name.class, o.name.cert, o.cert = p11rpc.ClassCertificate, c.id, c.cert
		list = append(list, &o)
	}
	return list
}

// object returns the object with a handle that the session can see.
func (q *request) object(s *session, handle uint64) (*object, error) {
	o, ok := q.server.objects().byHandle[handle]
	if !ok || !q.visible(s, o) {
		return nil, p11rpc.ObjectHandleInvalid
	}
	return o, nil
}

func (q *request) visible(s *session, o *object) bool {
	return o.name.slot == s.slot && (o.name.class != p11rpc.ClassPrivateKey || q.seesPrivate(s.slot))
}

// findObjectsInit is C_FindObjectsInit, §5.7.
func (q *request) findObjectsInit() error {
	id, template := q.in.Ulong(), q.in.Attributes()
	return q.inSession(id, func(s *session) error {
		if s.finding {
			return p11rpc.OperationActive
		}
		s.finding, s.found = true, nil
		for _, o := range q.server.objects().list {
			if q.visible(s, o) && matches(q.server.attributesOf(o), template) {
				s.found = append(s.found, o.handle)
			}
		}
		for _, k := range q.secretKeys(s.slot) {
			if matches(k.attribute, template) {
				s.found = append(s.found, k.handle)
			}
		}
		return nil
	})
}

// attributes returns an object's value of an attribute, or why there is none.
type attributes func(p11rpc.AttributeType) ([]byte, error)

// attributesOf returns what can be read of an object on a token.
func (s *Server) attributesOf(o *object) attributes {
	return func(t p11rpc.AttributeType) ([]byte, error) { return s.attribute(o, t) }
}

// attributes returns what can be read of the object with a handle that the
// session can see.
func (q *request) attributes(s *session, handle uint64) (attributes, error) {
	if k, ok := q.secretKey(s, handle); ok {
		return k.attribute, nil
	}
	o, err := q.object(s, handle)
	if err != nil {
		return nil, err
	}
	return q.server.attributesOf(o), nil
}

// matches reports whether an object has all of a template's values.
func matches(read attributes, template []p11rpc.Attribute) bool {
	for _, want := range template {
		value, err := read(want.Type)
		if err != nil || !want.Valid || want.Type.Form() == p11rpc.FormTemplate {
			return false
		}
		if string(value) != string(want.Value) || len(value) > 0 && want.Length == 0 {
			return false
		}
	}
	return true
}

// findObjects is C_FindObjects, §5.7. What has gone since the search began is
// left out.
func (q *request) findObjects() error {
	id, room := q.in.Ulong(), q.in.Room()
	return q.inSession(id, func(s *session) error {
		if !s.finding {
			return p11rpc.OperationNotInitialized
		}
		var list []uint64
		for len(s.found) > 0 && uint64(len(list)) < uint64(room) {
			handle := s.found[0]
			s.found = s.found[1:]
			if _, err := q.attributes(s, handle); err == nil {
				list = append(list, handle)
			}
		}
		q.out.Numbers(list)
		return nil
	})
}

// findObjectsFinal is C_FindObjectsFinal, §5.7.
func (q *request) findObjectsFinal() error {
	return q.inSession(q.in.Ulong(), func(s *session) error {
		if !s.finding {
			return p11rpc.OperationNotInitialized
		}
		s.finding, s.found = false, nil
		return nil
	})
}

// getObjectSize is C_GetObjectSize, §5.7: sizes are not known.
func (q *request) getObjectSize() error {
	id, handle := q.in.Ulong(), q.in.Ulong()
	return q.inSession(id, func(s *session) error {
		if _, err := q.attributes(s, handle); err != nil {
			return err
		}
		q.out.Ulong(p11rpc.Unavailable)
		return nil
	})
}

// getAttributeValue is C_GetAttributeValue, §5.7. Every attribute that can be
// answered is, whatever happens to the others; the code tells of one that could
// not.
func (q *request) getAttributeValue() error {
	id, handle := q.in.Ulong(), q.in.Ulong()
	rooms := q.in.Rooms()
	return q.inSession(id, func(s *session) error {
		read, err := q.attributes(s, handle)
		if err != nil {
			return err
		}
		rv := p11rpc.OK
		answer := make([]p11rpc.Attribute, len(rooms))
		for i, room := range rooms {
			var why p11rpc.RV
			if answer[i], why = answerAttribute(read, room); why != p11rpc.OK {
				rv = why
			}
		}
		q.out.Attributes(answer)
		q.out.Ulong(uint64(rv))
		return nil
	})
}

// answerAttribute puts an attribute into the room there is for it.
func answerAttribute(read attributes, room p11rpc.Room) (p11rpc.Attribute, p11rpc.RV) {
	value, err := read(room.Type)
	switch {
	case err != nil:
		rv, _ := outcome(err)
		return p11rpc.Attribute{Type: room.Type}, rv
	case room.Length == 0:
		return p11rpc.LengthOf(room.Type, len(value)), p11rpc.OK
	case uint64(room.Length) < uint64(len(value)):
		return p11rpc.Attribute{Type: room.Type}, p11rpc.BufferTooSmall
	}
	return p11rpc.NewAttribute(room.Type, value), p11rpc.OK
}
