package p11rpc

import "encoding/binary"

// An Encoder puts a message together, field after field. There is one way to
// encode each value, and it is p11-kit's.
type Encoder struct {
	buf     []byte
	framing Framing
}

// NewRequest returns an Encoder of a request, with its call and signature.
func NewRequest(c Call, f Framing) *Encoder { return newMessage(c, c.Request(), f) }

// NewResponse returns an Encoder of a response, with its call and signature.
func NewResponse(c Call, f Framing) *Encoder { return newMessage(c, c.Response(), f) }

// ErrorResponse returns the message that refuses a request. OK cannot be told
// so; it becomes [GeneralError].
func ErrorResponse(r RV) []byte {
	if r == OK {
		r = GeneralError
	}
	e := NewResponse(CallError, FramingOld)
	e.Ulong(uint64(r))
	return e.Message()
}

func newMessage(c Call, signature string, f Framing) *Encoder {
	e := &Encoder{buf: make([]byte, 0, 128), framing: f}
	e.uint32(uint32(c))
	e.array([]byte(signature))
	return e
}

// Message returns what was encoded. The caller owns it, and uses the Encoder no
// more.
func (e *Encoder) Message() []byte { return e.buf }

// Byte writes y.
func (e *Encoder) Byte(b byte) { e.buf = append(e.buf, b) }

func (e *Encoder) flag(yes bool) { e.Byte(byte(btoi(yes))) }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (e *Encoder) uint32(n uint32) { e.buf = binary.BigEndian.AppendUint32(e.buf, n) }

// Ulong writes u.
func (e *Encoder) Ulong(n uint64) { e.buf = binary.BigEndian.AppendUint64(e.buf, n) }

// Version writes v.
func (e *Encoder) Version(major, minor byte) { e.buf = append(e.buf, major, minor) }

// array writes b with its length; nil is a NULL array.
func (e *Encoder) array(b []byte) {
	if b == nil {
		e.uint32(null)
		return
	}
	e.uint32(uint32(len(b)))
	e.buf = append(e.buf, b...)
}

// Text writes s or z as it is.
func (e *Encoder) Text(s []byte) {
	e.uint32(uint32(len(s)))
	e.buf = append(e.buf, s...)
}

// Padded writes s, cut or padded with spaces to size bytes. PKCS#11 v2.40 §3.
func (e *Encoder) Padded(s string, size int) {
	e.uint32(uint32(size))
	s = s[:min(len(s), size)]
	e.buf = append(e.buf, s...)
	for range size - len(s) {
		e.buf = append(e.buf, ' ')
	}
}

// Bytes writes ay.
func (e *Encoder) Bytes(b Bytes) {
	e.flag(!b.LengthOnly)
	if b.LengthOnly {
		e.uint32(b.Length)
		return
	}
	e.array(b.Data)
}

// Data writes ay with all of data in it; nil counts as empty.
func (e *Encoder) Data(data []byte) {
	e.flag(true)
	e.Text(data)
}

// Length writes ay or au with only a length, for a caller who has no room or too
// little.
func (e *Encoder) Length(n int) {
	e.flag(false)
	e.uint32(uint32(n))
}

// Ulongs writes au.
func (e *Encoder) Ulongs(u Ulongs) {
	e.flag(!u.LengthOnly)
	e.uint32(u.Length)
	e.ulongs(u.Values)
}

// Numbers writes au with all of values in it.
func (e *Encoder) Numbers(values []uint64) {
	e.Ulongs(Ulongs{Values: values, Length: uint32(len(values))})
}

func (e *Encoder) ulongs(values []uint64) {
	for _, v := range values {
		e.Ulong(v)
	}
}

// Room writes fy or fu.
func (e *Encoder) Room(n uint32) { e.uint32(n) }
