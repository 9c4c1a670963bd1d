package seal

// The bytes of an ACK, sealed, as docs/protocol.md has them too. Another implementation of HKDF and AES-GCM (Python's cryptography)
// computed them.
const (
	goldenID     = "210ab220"
	goldenBlind  = "90c820c7"
	goldenServer = `
		44 4e 01 08 21 0a b2 20  00 01 02 03 04 05 06 07
		08 09 0a 0b 0c 0d 0e 0f  00 00 00 00 00 00 00 07
		2a 0d d2 2d c2 2c 5c 4a  94 f2 5f 78 18 a3 8b 8a
		b8 d9 4a 8a 0d aa 43 72  7c 4c 6e 32 02 55 7c 12
		3b c4 c3 ff 97 55 67 13  70 fe eb ed 88 98 23 49
		c8 7a 34 75 3e`
	goldenClient = `
		44 4e 01 09 21 0a b2 20  00 01 02 03 04 05 06 07
		08 09 0a 0b 0c 0d 0e 0f  00 00 00 00 00 00 00 07
		7c 39 97 92 5d 4f b0 61  92 a6 69 a7 c1 46 cd 9f
		db cf d7 e2 5e 16 20 35  bc c9 0c ca 5a 4e 00 01
		b6 41 00 8b 12 ee 8a 87  55 53 cf 0a d4 70 00 bd
		60 d7 dd 0f 3d`
)
