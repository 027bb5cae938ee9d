#include "textflag.h"

#define SYS_clone      56
#define SYS_arch_prctl 158
#define ARCH_SET_FS    0x1002
#define VFORK          0x4111 // CLONE_VM|CLONE_VFORK|SIGCHLD
#define CHILD_STACK    16384  // as in entry.go

// The kernel leaves argc at SP and the first argument's address behind it.
TEXT ·entry(SB),NOSPLIT|NOFRAME|TOPFRAME,$0
	MOVQ	0(SP), AX
	TESTQ	AX, AX
	JEQ	runtime
	MOVQ	8(SP), AX
	CMPB	(AX), $'/'
	JEQ	bare
runtime:
	JMP	_rt0_amd64_linux(SB)
bare:
	MOVQ	$SYS_arch_prctl, AX
	MOVQ	$ARCH_SET_FS, DI
	LEAQ	·threadLocal+8(SB), SI
	SYSCALL
	LEAQ	·runtimeG(SB), AX
	MOVQ	AX, ·threadLocal+0(SB)
	ANDQ	$~15, SP
	CALL	·start(SB)
	INT	$3

// The child has a stack of its own, so that it cannot change the parent's.
TEXT ·fork(SB),NOSPLIT|NOFRAME,$0-8
	MOVQ	$SYS_clone, AX
	MOVQ	$VFORK, DI
	LEAQ	·childStack(SB), SI
	ADDQ	$CHILD_STACK, SI
	ANDQ	$~15, SI
	XORL	DX, DX
	XORL	R10, R10
	XORL	R8, R8
	SYSCALL
	TESTQ	AX, AX
	JEQ	child
	MOVQ	AX, ret+0(FP)
	RET
child:
	CALL	·child(SB)
	INT	$3
