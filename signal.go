package mayfly

import (
	"strconv"
	"strings"
	"syscall"
)

// Signals without a name of their own, as programs see them: the C library keeps
// the first two for itself.
const (
	firstRealtime = 34 // RTMIN
	lastRealtime  = 64 // RTMAX
)

// signalNames are those of Linux by number, from 1 on.
const signalNames = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT " +
	"CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"

// ParseSignal reads a signal as people and images write it: TERM, SIGTERM, in small
// letters too, its number, or RTMIN+3 and RTMAX-1. It reports false if that is none.
func ParseSignal(text string) (syscall.Signal, bool) {
	if n, err := strconv.ParseUint(text, 10, 8); err == nil {
		return syscall.Signal(n), n >= 1 && n <= lastRealtime
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	for i, known := range strings.Fields(signalNames) {
		if name == known {
			return syscall.Signal(i + 1), true
		}
	}
	switch name {
	case "IOT":
		return syscall.SIGIOT, true
	case "CLD":
		return syscall.SIGCLD, true
	case "POLL":
		return syscall.SIGPOLL, true
	}
	return realtime(name)
}

func realtime(name string) (syscall.Signal, bool) {
	from, base, sign := firstRealtime, "RTMIN", "+"
	if strings.HasPrefix(name, "RTMAX") {
		from, base, sign = lastRealtime, "RTMAX", "-"
	}
	rest, ok := strings.CutPrefix(name, base)
	if !ok || rest == "" {
		return syscall.Signal(from), ok
	}
	digits, ok := strings.CutPrefix(rest, sign)
	n, err := strconv.ParseUint(digits, 10, 8)
	if !ok || err != nil || n > lastRealtime-firstRealtime {
		return 0, false
	}
	if sign == "-" {
		return syscall.Signal(from - int(n)), true
	}
	return syscall.Signal(from + int(n)), true
}

// SignalName is what ParseSignal reads as a signal, without SIG: a name, else its
// number.
func SignalName(sig syscall.Signal) string {
	if names := strings.Fields(signalNames); sig >= 1 && int(sig) <= len(names) {
		return names[sig-1]
	}
	return strconv.Itoa(int(sig))
}
