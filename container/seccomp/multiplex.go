package seccomp

import "github.com/opencontainers/runtime-spec/specs-go"

// multiplexed returns the call through which i386 programs also reach a
// socket or System V IPC call, and the number under which it knows it; 0 when
// there is no other way. (linux/net.h, linux/ipc.h)
func multiplexed(arch specs.Arch, name string) (number uint32, subcall uint64) {
	if arch != specs.ArchX86 {
		return 0, 0
	}
	const socketcall, ipc = 102, 117
	switch name {
	case "socket":
		return socketcall, 1
	case "bind":
		return socketcall, 2
	case "connect":
		return socketcall, 3
	case "listen":
		return socketcall, 4
	case "accept":
		return socketcall, 5
	case "getsockname":
		return socketcall, 6
	case "getpeername":
		return socketcall, 7
	case "socketpair":
		return socketcall, 8
	case "send":
		return socketcall, 9
	case "recv":
		return socketcall, 10
	case "sendto":
		return socketcall, 11
	case "recvfrom":
		return socketcall, 12
	case "shutdown":
		return socketcall, 13
	case "setsockopt":
		return socketcall, 14
	case "getsockopt":
		return socketcall, 15
	case "sendmsg":
		return socketcall, 16
	case "recvmsg":
		return socketcall, 17
	case "accept4":
		return socketcall, 18
	case "recvmmsg":
		return socketcall, 19
	case "sendmmsg":
		return socketcall, 20
	case "semop":
		return ipc, 1
	case "semget":
		return ipc, 2
	case "semctl":
		return ipc, 3
	case "semtimedop":
		return ipc, 4
	case "msgsnd":
		return ipc, 11
	case "msgrcv":
		return ipc, 12
	case "msgget":
		return ipc, 13
	case "msgctl":
		return ipc, 14
	case "shmat":
		return ipc, 21
	case "shmdt":
		return ipc, 22
	case "shmget":
		return ipc, 23
	case "shmctl":
		return ipc, 24
	}
	return 0, 0
}
