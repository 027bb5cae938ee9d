package queue

import (
	"slices"
)

// sequences are those of messages that are not in memory, ascending: 8 bytes
// for each.
type sequences struct {
	list []uint64
	head int // of list, what is before it is gone
}

func (s *sequences) len() int { return len(s.list) - s.head }

// first are the first n, or all, until the next change.
func (s *sequences) first(n int) []uint64 { return s.list[s.head:min(len(s.list), s.head+n)] }

func (s *sequences) contains(seq uint64) bool {
	_, found := slices.BinarySearch(s.list[s.head:], seq)
	return found
}

// insert is cheap near the end.
func (s *sequences) insert(seq uint64) {
	i := len(s.list)
	for near := 0; i > s.head && s.list[i-1] >= seq; near++ {
		if near == 16 {
			j, _ := slices.BinarySearch(s.list[s.head:i], seq)
			i = s.head + j
			break
		}
		i--
	}
	if i < len(s.list) && s.list[i] == seq {
		return
	}
	s.list = slices.Insert(s.list, i, seq)
}

// insertFirst is cheap when all, which ascend, come before what there is.
func (s *sequences) insertFirst(seqs []uint64) {
	switch {
	case len(seqs) == 0:
	case s.len() == 0:
		*s = sequences{list: slices.Clone(seqs)}
	case seqs[len(seqs)-1] >= s.list[s.head]:
		for _, seq := range seqs {
			s.insert(seq)
		}
	case len(seqs) <= s.head:
		s.head -= len(seqs)
		copy(s.list[s.head:], seqs)
	default:
		s.list = slices.Insert(s.list, s.head, seqs...)
	}
}

// remove is cheap near the beginning.
func (s *sequences) remove(seq uint64) {
	if s.len() == 0 {
		return
	}
	if s.list[s.head] == seq {
		s.head++
	} else if i, found := slices.BinarySearch(s.list[s.head:], seq); found {
		s.list = slices.Delete(s.list, s.head+i, s.head+i+1)
	}
	switch rest := s.list[s.head:]; {
	case len(rest) == 0:
		*s = sequences{}
	case s.head >= 1024 && s.head > len(rest):
		*s = sequences{list: slices.Clone(rest)}
	}
}
