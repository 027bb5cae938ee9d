#include "textflag.h"

#define SYS_clone   220
#define VFORK       0x4111 // CLONE_VM|CLONE_VFORK|SIGCHLD
#define CHILD_STACK 16384  // as in entry.go

// The kernel leaves argc at RSP and the first argument's address behind it.
TEXT ·entry(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVD	0(RSP), R0
	CBZ	R0, runtime
	MOVD	8(RSP), R0
	MOVBU	(R0), R0
	CMP	$'/', R0
	BEQ	bare
runtime:
	JMP	_rt0_arm64_linux(SB)
bare:
	MOVD	$·runtimeG(SB), g
	BL	·start(SB)
	BRK	$1

// The child has a stack of its own, so that it cannot change the parent's.
TEXT ·fork(SB),NOSPLIT|NOFRAME,$0-8
	MOVD	$VFORK, R0
	MOVD	$·childStack(SB), R1
	ADD	$CHILD_STACK, R1
	AND	$~15, R1
	MOVD	ZR, R2
	MOVD	ZR, R3
	MOVD	ZR, R4
	MOVD	$SYS_clone, R8
	SVC
	CBZ	R0, inside
	MOVD	R0, ret+0(FP)
	RET
inside:
	BL	·child(SB)
	BRK	$1
