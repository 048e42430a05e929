//go:build amd64 && !purego

#include "textflag.h"

// Eight streams of SHA-512, one in each 64-bit lane of AVX-512 registers. See
// sum8 in lanes_amd64.go. Names of variables and functions are those of FIPS
// 180-4, sections 4.1.3 and 6.4.2.

// Bytes of a word, turned around in each word of a register.
DATA turn<>+0(SB)/8, $0x0001020304050607
DATA turn<>+8(SB)/8, $0x08090a0b0c0d0e0f
DATA turn<>+16(SB)/8, $0x0001020304050607
DATA turn<>+24(SB)/8, $0x08090a0b0c0d0e0f
DATA turn<>+32(SB)/8, $0x0001020304050607
DATA turn<>+40(SB)/8, $0x08090a0b0c0d0e0f
DATA turn<>+48(SB)/8, $0x0001020304050607
DATA turn<>+56(SB)/8, $0x08090a0b0c0d0e0f
GLOBL turn<>(SB), RODATA|NOPTR, $64

// Z0-Z15 are W, Z16-Z23 are a-h, Z24-Z31 are free.

// LOAD takes 64 bytes of the next block of a lane.
#define LOAD(lane, offset, r) \
	MOVQ      (lane*8)(SI), AX           \
	VMOVDQU64 offset(AX)(BX*1), r

// TRANSPOSE turns eight lanes of eight words into eight words of eight lanes.
// Words are big-endian in the lanes.
#define TRANSPOSE(r0, r1, r2, r3, r4, r5, r6, r7) \
	VPUNPCKLQDQ r1, r0, Z24          \
	VPUNPCKHQDQ r1, r0, Z25          \
	VPUNPCKLQDQ r3, r2, Z26          \
	VPUNPCKHQDQ r3, r2, Z27          \
	VPUNPCKLQDQ r5, r4, Z28          \
	VPUNPCKHQDQ r5, r4, Z29          \
	VPUNPCKLQDQ r7, r6, Z30          \
	VPUNPCKHQDQ r7, r6, Z31          \
	VSHUFI64X2  $0x88, Z26, Z24, r0  \
	VSHUFI64X2  $0xdd, Z26, Z24, r2  \
	VSHUFI64X2  $0x88, Z30, Z28, r4  \
	VSHUFI64X2  $0xdd, Z30, Z28, r6  \
	VSHUFI64X2  $0x88, Z27, Z25, r1  \
	VSHUFI64X2  $0xdd, Z27, Z25, r3  \
	VSHUFI64X2  $0x88, Z31, Z29, r5  \
	VSHUFI64X2  $0xdd, Z31, Z29, r7  \
	VSHUFI64X2  $0x88, r4, r0, Z24   \
	VSHUFI64X2  $0xdd, r4, r0, Z28   \
	VSHUFI64X2  $0x88, r5, r1, Z25   \
	VSHUFI64X2  $0xdd, r5, r1, Z29   \
	VSHUFI64X2  $0x88, r6, r2, Z26   \
	VSHUFI64X2  $0xdd, r6, r2, Z30   \
	VSHUFI64X2  $0x88, r7, r3, Z27   \
	VSHUFI64X2  $0xdd, r7, r3, Z31   \
	VPSHUFB     turn<>(SB), Z24, r0  \
	VPSHUFB     turn<>(SB), Z25, r1  \
	VPSHUFB     turn<>(SB), Z26, r2  \
	VPSHUFB     turn<>(SB), Z27, r3  \
	VPSHUFB     turn<>(SB), Z28, r4  \
	VPSHUFB     turn<>(SB), Z29, r5  \
	VPSHUFB     turn<>(SB), Z30, r6  \
	VPSHUFB     turn<>(SB), Z31, r7

// ROUND leaves the new a in h and the new e in d. DX is at the K of the round
// whose offset is 0.
#define ROUND(a, b, c, d, e, f, g, h, w, offset) \
	VPADDQ.BCST offset(DX), w, Z24   \
	VPADDQ      Z24, h, h            \
	VPRORQ      $14, e, Z25          \
	VPRORQ      $18, e, Z26          \
	VPRORQ      $41, e, Z27          \
	VPTERNLOGQ  $0x96, Z26, Z27, Z25 \
	VMOVDQA64   e, Z28               \
	VPTERNLOGQ  $0xca, g, f, Z28     \
	VPADDQ      Z25, h, h            \
	VPADDQ      Z28, h, h            \
	VPADDQ      h, d, d              \
	VPRORQ      $28, a, Z29          \
	VPRORQ      $34, a, Z30          \
	VPRORQ      $39, a, Z31          \
	VPTERNLOGQ  $0x96, Z30, Z31, Z29 \
	VMOVDQA64   a, Z28               \
	VPTERNLOGQ  $0xe8, c, b, Z28     \
	VPADDQ      Z29, h, h            \
	VPADDQ      Z28, h, h

// EXPAND turns W(t) into W(t+16).
#define EXPAND(w0, w1, w9, w14) \
	VPRORQ     $1, w1, Z24           \
	VPRORQ     $8, w1, Z25           \
	VPSRLQ     $7, w1, Z26           \
	VPTERNLOGQ $0x96, Z25, Z26, Z24  \
	VPRORQ     $19, w14, Z27         \
	VPRORQ     $61, w14, Z28         \
	VPSRLQ     $6, w14, Z29          \
	VPTERNLOGQ $0x96, Z28, Z29, Z27  \
	VPADDQ     w9, w0, w0            \
	VPADDQ     Z24, w0, w0           \
	VPADDQ     Z27, w0, w0

// func blocks8(state *[8][8]uint64, lanes *[8]*byte, n int, k *[80]uint64)
TEXT ·blocks8(SB), NOSPLIT, $0-32
	MOVQ state+0(FP), DI
	MOVQ lanes+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ k+24(FP), R8
	XORQ BX, BX // offset in each lane

block:
	TESTQ CX, CX
	JZ    done
	LOAD(0, 0, Z0)
	LOAD(1, 0, Z1)
	LOAD(2, 0, Z2)
	LOAD(3, 0, Z3)
	LOAD(4, 0, Z4)
	LOAD(5, 0, Z5)
	LOAD(6, 0, Z6)
	LOAD(7, 0, Z7)
	TRANSPOSE(Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7)
	LOAD(0, 64, Z8)
	LOAD(1, 64, Z9)
	LOAD(2, 64, Z10)
	LOAD(3, 64, Z11)
	LOAD(4, 64, Z12)
	LOAD(5, 64, Z13)
	LOAD(6, 64, Z14)
	LOAD(7, 64, Z15)
	TRANSPOSE(Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15)

	VMOVDQU64 0(DI), Z16
	VMOVDQU64 64(DI), Z17
	VMOVDQU64 128(DI), Z18
	VMOVDQU64 192(DI), Z19
	VMOVDQU64 256(DI), Z20
	VMOVDQU64 320(DI), Z21
	VMOVDQU64 384(DI), Z22
	VMOVDQU64 448(DI), Z23

	MOVQ R8, DX
	MOVQ $4, AX

expand:
	ROUND(Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z0, 0)
	EXPAND(Z0, Z1, Z9, Z14)
	ROUND(Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z1, 8)
	EXPAND(Z1, Z2, Z10, Z15)
	ROUND(Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z2, 16)
	EXPAND(Z2, Z3, Z11, Z0)
	ROUND(Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z3, 24)
	EXPAND(Z3, Z4, Z12, Z1)
	ROUND(Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z4, 32)
	EXPAND(Z4, Z5, Z13, Z2)
	ROUND(Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z5, 40)
	EXPAND(Z5, Z6, Z14, Z3)
	ROUND(Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z6, 48)
	EXPAND(Z6, Z7, Z15, Z4)
	ROUND(Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z7, 56)
	EXPAND(Z7, Z8, Z0, Z5)
	ROUND(Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z8, 64)
	EXPAND(Z8, Z9, Z1, Z6)
	ROUND(Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z9, 72)
	EXPAND(Z9, Z10, Z2, Z7)
	ROUND(Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z10, 80)
	EXPAND(Z10, Z11, Z3, Z8)
	ROUND(Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z11, 88)
	EXPAND(Z11, Z12, Z4, Z9)
	ROUND(Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z12, 96)
	EXPAND(Z12, Z13, Z5, Z10)
	ROUND(Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z13, 104)
	EXPAND(Z13, Z14, Z6, Z11)
	ROUND(Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z14, 112)
	EXPAND(Z14, Z15, Z7, Z12)
	ROUND(Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z15, 120)
	EXPAND(Z15, Z0, Z8, Z13)
	ADDQ $128, DX
	DECQ AX
	JNZ  expand

	ROUND(Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z0, 0)
	ROUND(Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z1, 8)
	ROUND(Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z2, 16)
	ROUND(Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z3, 24)
	ROUND(Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z4, 32)
	ROUND(Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z5, 40)
	ROUND(Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z6, 48)
	ROUND(Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z7, 56)
	ROUND(Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z8, 64)
	ROUND(Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z9, 72)
	ROUND(Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z21, Z10, 80)
	ROUND(Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z20, Z11, 88)
	ROUND(Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z19, Z12, 96)
	ROUND(Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z18, Z13, 104)
	ROUND(Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z17, Z14, 112)
	ROUND(Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z16, Z15, 120)

	VPADDQ    0(DI), Z16, Z16
	VPADDQ    64(DI), Z17, Z17
	VPADDQ    128(DI), Z18, Z18
	VPADDQ    192(DI), Z19, Z19
	VPADDQ    256(DI), Z20, Z20
	VPADDQ    320(DI), Z21, Z21
	VPADDQ    384(DI), Z22, Z22
	VPADDQ    448(DI), Z23, Z23
	VMOVDQU64 Z16, 0(DI)
	VMOVDQU64 Z17, 64(DI)
	VMOVDQU64 Z18, 128(DI)
	VMOVDQU64 Z19, 192(DI)
	VMOVDQU64 Z20, 256(DI)
	VMOVDQU64 Z21, 320(DI)
	VMOVDQU64 Z22, 384(DI)
	VMOVDQU64 Z23, 448(DI)

	ADDQ $128, BX
	DECQ CX
	JMP  block

done:
	VZEROUPPER
	RET
