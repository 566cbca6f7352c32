package ext4

import "math/bits"

// halfMD4 is the hash of a name in an indexed directory (fs/ext4/hash.c,
// DX_HASH_HALF_MD4_UNSIGNED). Its lowest bit is always 0: in an index it says
// that a block continues the hash of the one before.
func halfMD4(name string, seed *[4]uint32) uint32 {
	buf := [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	if *seed != [4]uint32{} {
		buf = *seed
	}
	for len(name) > 0 {
		var in [8]uint32
		fillHash(&in, name)
		mixHash(&buf, &in)
		name = name[min(len(name), 32):]
	}
	const end = 0x7fffffff << 1 // marks the end of a directory to readdir
	h := buf[1] &^ 1
	if h == end {
		h = end - 2
	}
	return h
}

// fillHash takes up to 32 bytes, four to a word, padded with the length.
func fillHash(in *[8]uint32, s string) {
	pad := uint32(len(s)) | uint32(len(s))<<8
	pad |= pad << 16
	for i := range in {
		in[i] = pad
	}
	val := pad
	n := min(len(s), 32)
	for i := range n {
		val = uint32(s[i]) + val<<8
		if i%4 == 3 {
			in[i/4] = val
			val = pad
		}
	}
	if n%4 != 0 {
		in[n/4] = val
	}
}

// mixHash is MD4 of three rounds of eight steps.
func mixHash(buf *[4]uint32, in *[8]uint32) {
	const k2, k3 = 0x5a827999, 0x6ed9eba1
	a, b, c, d := buf[0], buf[1], buf[2], buf[3]
	f := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	g := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	h := func(x, y, z uint32) uint32 { return x ^ y ^ z }
	for i := 0; i < 8; i += 4 {
		a = bits.RotateLeft32(a+f(b, c, d)+in[i], 3)
		d = bits.RotateLeft32(d+f(a, b, c)+in[i+1], 7)
		c = bits.RotateLeft32(c+f(d, a, b)+in[i+2], 11)
		b = bits.RotateLeft32(b+f(c, d, a)+in[i+3], 19)
	}
	for _, i := range [2]int{1, 0} {
		a = bits.RotateLeft32(a+g(b, c, d)+in[i]+k2, 3)
		d = bits.RotateLeft32(d+g(a, b, c)+in[i+2]+k2, 5)
		c = bits.RotateLeft32(c+g(d, a, b)+in[i+4]+k2, 9)
		b = bits.RotateLeft32(b+g(c, d, a)+in[i+6]+k2, 13)
	}
	for _, i := range [2]int{3, 1} {
		a = bits.RotateLeft32(a+h(b, c, d)+in[i]+k3, 3)
		d = bits.RotateLeft32(d+h(a, b, c)+in[i+4]+k3, 9)
		c = bits.RotateLeft32(c+h(d, a, b)+in[i-1]+k3, 11)
		b = bits.RotateLeft32(b+h(c, d, a)+in[i+3]+k3, 15)
	}
	buf[0] += a
	buf[1] += b
	buf[2] += c
	buf[3] += d
}
