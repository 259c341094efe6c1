package pkcs11

import "github.com/keyringd/keyringd/pkcs11/p11rpc"

// digestInit is C_DigestInit, §5.10.
func (q *request) digestInit() error {
	id, given := q.in.Ulong(), q.in.Mechanism()
	return q.inSession(id, func(s *session) error {
		if given.Type == p11rpc.MechNone {
			s.digesting = nil
			return nil
		}
		if s.digesting != nil {
			return p11rpc.OperationActive
		}
		m, ok := mechanismOf(uint64(given.Type))
		if !ok || m.scheme != schemeDigest {
			return p11rpc.MechanismInvalid
		}
		s.digesting = m.hash.New()
		return nil
	})
}

// digest is C_Digest, §5.10.
func (q *request) digest() error {
	id, data, room := q.in.Ulong(), q.in.Bytes(), q.in.Room()
	return q.digestNow(id, data.Data, room)
}

// digestUpdate is C_DigestUpdate, §5.10.
func (q *request) digestUpdate() error {
	id, data := q.in.Ulong(), q.in.Bytes()
	return q.inSession(id, func(s *session) error {
		if s.digesting == nil {
			return p11rpc.OperationNotInitialized
		}
		s.digesting.Write(data.Data)
		return nil
	})
}

// digestFinal is C_DigestFinal, §5.10.
func (q *request) digestFinal() error {
	id, room := q.in.Ulong(), q.in.Room()
	return q.digestNow(id, nil, room)
}

// digestNow answers with the digest, or only its length where there is no room.
func (q *request) digestNow(id uint64, data []byte, room uint32) error {
	return q.inSession(id, func(s *session) error {
		if s.digesting == nil {
			return p11rpc.OperationNotInitialized
		}
		if size := s.digesting.Size(); uint64(room) < uint64(size) {
			q.out.Length(size)
			return nil
		}
		s.digesting.Write(data)
		q.out.Data(s.digesting.Sum(nil))
		s.digesting = nil
		return nil
	})
}
