//go:build amd64 && !purego

#include "textflag.h"

// Two streams of SHA-256 with SHA-NI, interleaved. See pair in pair_amd64.go.

// FIPS 180-4, 4.2.2.
DATA k<>+0(SB)/4, $0x428a2f98
DATA k<>+4(SB)/4, $0x71374491
DATA k<>+8(SB)/4, $0xb5c0fbcf
DATA k<>+12(SB)/4, $0xe9b5dba5
DATA k<>+16(SB)/4, $0x3956c25b
DATA k<>+20(SB)/4, $0x59f111f1
DATA k<>+24(SB)/4, $0x923f82a4
DATA k<>+28(SB)/4, $0xab1c5ed5
DATA k<>+32(SB)/4, $0xd807aa98
DATA k<>+36(SB)/4, $0x12835b01
DATA k<>+40(SB)/4, $0x243185be
DATA k<>+44(SB)/4, $0x550c7dc3
DATA k<>+48(SB)/4, $0x72be5d74
DATA k<>+52(SB)/4, $0x80deb1fe
DATA k<>+56(SB)/4, $0x9bdc06a7
DATA k<>+60(SB)/4, $0xc19bf174
DATA k<>+64(SB)/4, $0xe49b69c1
DATA k<>+68(SB)/4, $0xefbe4786
DATA k<>+72(SB)/4, $0x0fc19dc6
DATA k<>+76(SB)/4, $0x240ca1cc
DATA k<>+80(SB)/4, $0x2de92c6f
DATA k<>+84(SB)/4, $0x4a7484aa
DATA k<>+88(SB)/4, $0x5cb0a9dc
DATA k<>+92(SB)/4, $0x76f988da
DATA k<>+96(SB)/4, $0x983e5152
DATA k<>+100(SB)/4, $0xa831c66d
DATA k<>+104(SB)/4, $0xb00327c8
DATA k<>+108(SB)/4, $0xbf597fc7
DATA k<>+112(SB)/4, $0xc6e00bf3
DATA k<>+116(SB)/4, $0xd5a79147
DATA k<>+120(SB)/4, $0x06ca6351
DATA k<>+124(SB)/4, $0x14292967
DATA k<>+128(SB)/4, $0x27b70a85
DATA k<>+132(SB)/4, $0x2e1b2138
DATA k<>+136(SB)/4, $0x4d2c6dfc
DATA k<>+140(SB)/4, $0x53380d13
DATA k<>+144(SB)/4, $0x650a7354
DATA k<>+148(SB)/4, $0x766a0abb
DATA k<>+152(SB)/4, $0x81c2c92e
DATA k<>+156(SB)/4, $0x92722c85
DATA k<>+160(SB)/4, $0xa2bfe8a1
DATA k<>+164(SB)/4, $0xa81a664b
DATA k<>+168(SB)/4, $0xc24b8b70
DATA k<>+172(SB)/4, $0xc76c51a3
DATA k<>+176(SB)/4, $0xd192e819
DATA k<>+180(SB)/4, $0xd6990624
DATA k<>+184(SB)/4, $0xf40e3585
DATA k<>+188(SB)/4, $0x106aa070
DATA k<>+192(SB)/4, $0x19a4c116
DATA k<>+196(SB)/4, $0x1e376c08
DATA k<>+200(SB)/4, $0x2748774c
DATA k<>+204(SB)/4, $0x34b0bcb5
DATA k<>+208(SB)/4, $0x391c0cb3
DATA k<>+212(SB)/4, $0x4ed8aa4a
DATA k<>+216(SB)/4, $0x5b9cca4f
DATA k<>+220(SB)/4, $0x682e6ff3
DATA k<>+224(SB)/4, $0x748f82ee
DATA k<>+228(SB)/4, $0x78a5636f
DATA k<>+232(SB)/4, $0x84c87814
DATA k<>+236(SB)/4, $0x8cc70208
DATA k<>+240(SB)/4, $0x90befffa
DATA k<>+244(SB)/4, $0xa4506ceb
DATA k<>+248(SB)/4, $0xbef9a3f7
DATA k<>+252(SB)/4, $0xc67178f2
GLOBL k<>(SB), RODATA|NOPTR, $256

// Reverses the bytes of each 32-bit word.
DATA flip<>+0(SB)/8, $0x0405060700010203
DATA flip<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL flip<>(SB), RODATA|NOPTR, $16

// func hasSHA() bool
TEXT ·hasSHA(SB), NOSPLIT, $0-1
	MOVB $0, ret+0(FP)
	XORL AX, AX
	XORL CX, CX
	CPUID
	CMPL AX, $7
	JLT  none
	MOVL $1, AX
	XORL CX, CX
	CPUID
	ANDL $0x80200, CX // SSSE3 (bit 9), SSE4.1 (bit 19)
	CMPL CX, $0x80200
	JNE  none
	MOVL $7, AX
	XORL CX, CX
	CPUID
	SHRL $29, BX      // SHA
	ANDL $1, BX
	MOVB BX, ret+0(FP)

none:
	RET

// A state is held as two vectors, ABEF and CDGH, as SHA256RNDS2 wants it.
#define SPLIT(abef, cdgh, t) \
	PSHUFD  $0xb1, abef, abef \
	PSHUFD  $0x1b, cdgh, cdgh \
	MOVO    abef, t           \
	PALIGNR $8, cdgh, abef    \
	PBLENDW $0xf0, t, cdgh

#define JOIN(abef, cdgh, t) \
	PSHUFD  $0x1b, abef, abef \
	PSHUFD  $0xb1, cdgh, cdgh \
	MOVO    abef, t           \
	PBLENDW $0xf0, cdgh, abef \
	PALIGNR $8, t, cdgh

#define LOAD(at, from, m) \
	MOVOU  at(from), m \
	PSHUFB X14, m

// Four rounds with the words of m; at is their place among the constants.
#define ROUNDS(at, m, abef, cdgh) \
	MOVOU       at(R8), X0      \
	PADDD       m, X0           \
	SHA256RNDS2 X0, abef, cdgh  \
	PSHUFD      $0x0e, X0, X0   \
	SHA256RNDS2 X0, cdgh, abef

// The message schedule: next gets four new words.
#define EXTEND(previous, m, next, t) \
	MOVO       m, t            \
	PALIGNR    $4, previous, t \
	PADDD      t, next         \
	SHA256MSG2 m, next

// func blocks2(state *[2][8]uint32, a, b *byte, n int)
//
// X1, X2 and X7, X8: states; X3-X6 and X9-X12: messages; X14: flip; X0, X13,
// X15: scratch. The states before a block are kept on the stack.
TEXT ·blocks2(SB), NOSPLIT, $64-32
	MOVQ  state+0(FP), DX
	MOVQ  a+8(FP), SI
	MOVQ  b+16(FP), DI
	MOVQ  n+24(FP), CX
	LEAQ  k<>(SB), R8
	MOVOU flip<>(SB), X14
	MOVOU 0(DX), X1
	MOVOU 16(DX), X2
	MOVOU 32(DX), X7
	MOVOU 48(DX), X8
	SPLIT(X1, X2, X13)
	SPLIT(X7, X8, X13)

next:
	MOVOU X1, before-64(SP)
	MOVOU X2, before-48(SP)
	MOVOU X7, before-32(SP)
	MOVOU X8, before-16(SP)
	LOAD(0, SI, X3)
	ROUNDS(0, X3, X1, X2)
	LOAD(0, DI, X9)
	ROUNDS(0, X9, X7, X8)
	LOAD(16, SI, X4)
	ROUNDS(16, X4, X1, X2)
	SHA256MSG1 X4, X3
	LOAD(16, DI, X10)
	ROUNDS(16, X10, X7, X8)
	SHA256MSG1 X10, X9
	LOAD(32, SI, X5)
	ROUNDS(32, X5, X1, X2)
	SHA256MSG1 X5, X4
	LOAD(32, DI, X11)
	ROUNDS(32, X11, X7, X8)
	SHA256MSG1 X11, X10
	LOAD(48, SI, X6)
	ROUNDS(48, X6, X1, X2)
	EXTEND(X5, X6, X3, X13)
	SHA256MSG1 X6, X5
	LOAD(48, DI, X12)
	ROUNDS(48, X12, X7, X8)
	EXTEND(X11, X12, X9, X15)
	SHA256MSG1 X12, X11
	ROUNDS(64, X3, X1, X2)
	EXTEND(X6, X3, X4, X13)
	SHA256MSG1 X3, X6
	ROUNDS(64, X9, X7, X8)
	EXTEND(X12, X9, X10, X15)
	SHA256MSG1 X9, X12
	ROUNDS(80, X4, X1, X2)
	EXTEND(X3, X4, X5, X13)
	SHA256MSG1 X4, X3
	ROUNDS(80, X10, X7, X8)
	EXTEND(X9, X10, X11, X15)
	SHA256MSG1 X10, X9
	ROUNDS(96, X5, X1, X2)
	EXTEND(X4, X5, X6, X13)
	SHA256MSG1 X5, X4
	ROUNDS(96, X11, X7, X8)
	EXTEND(X10, X11, X12, X15)
	SHA256MSG1 X11, X10
	ROUNDS(112, X6, X1, X2)
	EXTEND(X5, X6, X3, X13)
	SHA256MSG1 X6, X5
	ROUNDS(112, X12, X7, X8)
	EXTEND(X11, X12, X9, X15)
	SHA256MSG1 X12, X11
	ROUNDS(128, X3, X1, X2)
	EXTEND(X6, X3, X4, X13)
	SHA256MSG1 X3, X6
	ROUNDS(128, X9, X7, X8)
	EXTEND(X12, X9, X10, X15)
	SHA256MSG1 X9, X12
	ROUNDS(144, X4, X1, X2)
	EXTEND(X3, X4, X5, X13)
	SHA256MSG1 X4, X3
	ROUNDS(144, X10, X7, X8)
	EXTEND(X9, X10, X11, X15)
	SHA256MSG1 X10, X9
	ROUNDS(160, X5, X1, X2)
	EXTEND(X4, X5, X6, X13)
	SHA256MSG1 X5, X4
	ROUNDS(160, X11, X7, X8)
	EXTEND(X10, X11, X12, X15)
	SHA256MSG1 X11, X10
	ROUNDS(176, X6, X1, X2)
	EXTEND(X5, X6, X3, X13)
	SHA256MSG1 X6, X5
	ROUNDS(176, X12, X7, X8)
	EXTEND(X11, X12, X9, X15)
	SHA256MSG1 X12, X11
	ROUNDS(192, X3, X1, X2)
	EXTEND(X6, X3, X4, X13)
	SHA256MSG1 X3, X6
	ROUNDS(192, X9, X7, X8)
	EXTEND(X12, X9, X10, X15)
	SHA256MSG1 X9, X12
	ROUNDS(208, X4, X1, X2)
	EXTEND(X3, X4, X5, X13)
	ROUNDS(208, X10, X7, X8)
	EXTEND(X9, X10, X11, X15)
	ROUNDS(224, X5, X1, X2)
	EXTEND(X4, X5, X6, X13)
	ROUNDS(224, X11, X7, X8)
	EXTEND(X10, X11, X12, X15)
	ROUNDS(240, X6, X1, X2)
	ROUNDS(240, X12, X7, X8)
	MOVOU before-64(SP), X13
	MOVOU before-48(SP), X15
	PADDD X13, X1
	PADDD X15, X2
	MOVOU before-32(SP), X13
	MOVOU before-16(SP), X15
	PADDD X13, X7
	PADDD X15, X8
	ADDQ  $64, SI
	ADDQ  $64, DI
	DECQ  CX
	JNZ   next

	JOIN(X1, X2, X13)
	JOIN(X7, X8, X13)
	MOVOU X1, 0(DX)
	MOVOU X2, 16(DX)
	MOVOU X7, 32(DX)
	MOVOU X8, 48(DX)
	RET
