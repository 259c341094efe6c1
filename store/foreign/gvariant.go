package foreign

import "encoding/binary"

// A container is a serialized GVariant tuple or array, little-endian (the GLib
// manual, "GVariant Serialization Format"). Members are read in order; where
// they end is said by offsets at the container's end, as wide as the container
// is long. After the first fault everything it returns is empty.
type container struct {
	data   []byte
	at     int // where the next member begins, before its alignment
	end    int // where the members end and the offsets begin
	wide   int // bytes per offset
	ending int // offsets of a tuple that were read, from the last to the first
	bad    bool
}

func offsetSize(n int) int {
	switch {
	case n <= 0xff:
		return 1
	case n <= 0xffff:
		return 2
	default:
		return 4 // a file has less than 4 GiB
	}
}

// tuple begins a tuple of which offsets members end where an offset says.
func tuple(data []byte, offsets int) container {
	c := container{data: data, wide: offsetSize(len(data))}
	c.end = len(data) - offsets*c.wide
	if c.end < 0 {
		c.fail()
	}
	return c
}

func (c *container) fail() {
	c.bad, c.data, c.at, c.end = true, nil, 0, 0
}

// offset reads the offset that stands at i.
func (c *container) offset(i int) int {
	var b [8]byte
	copy(b[:], c.data[i:i+c.wide])
	return int(binary.LittleEndian.Uint64(b[:]))
}

// fixed reads a number of n bytes, which is aligned to its size.
func (c *container) fixed(n int) uint64 {
	at := (c.at + n - 1) / n * n
	if c.bad || at+n > c.end {
		c.fail()
		return 0
	}
	var b [8]byte
	copy(b[:], c.data[at:at+n])
	c.at = at + n
	return binary.LittleEndian.Uint64(b[:])
}

// member reads a member without alignment whose end is in the next offset.
func (c *container) member() []byte {
	c.ending++
	i := len(c.data) - c.ending*c.wide
	if c.bad || i < c.end {
		c.fail()
		return nil
	}
	end := c.offset(i)
	if end < c.at || end > c.end {
		c.fail()
		return nil
	}
	m := c.data[c.at:end]
	c.at = end
	return m
}

// last reads the last member, which goes on to the offsets.
func (c *container) last() []byte {
	if c.bad {
		return nil
	}
	m := c.data[c.at:c.end]
	c.at = c.end
	return m
}

// elements cuts an array whose elements have no fixed size and no alignment. It
// refuses more of them than there is room for if each has least bytes, so that
// nobody makes room for millions of nothing.
func elements(data []byte, least int) ([][]byte, bool) {
	if len(data) == 0 {
		return nil, true
	}
	c := container{data: data, wide: offsetSize(len(data))}
	if len(data) < c.wide {
		return nil, false
	}
	c.end = c.offset(len(data) - c.wide) // the last element's end is where the offsets begin
	if c.end > len(data)-c.wide || (len(data)-c.end)%c.wide != 0 {
		return nil, false
	}
	if (len(data)-c.end)/c.wide*(least+c.wide) > len(data) {
		return nil, false
	}
	all := make([][]byte, 0, (len(data)-c.end)/c.wide)
	for i := c.end; i < len(data); i += c.wide {
		end := c.offset(i)
		if end < c.at || end > c.end {
			return nil, false
		}
		all = append(all, data[c.at:end])
		c.at = end
	}
	return all, true
}

// text reads a string, which ends in NUL.
func text(data []byte) (string, bool) {
	n := len(data) - 1
	if n < 0 || data[n] != 0 {
		return "", false
	}
	return clean(string(data[:n])), true
}
