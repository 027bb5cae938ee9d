package bus

import "testing"

// What was used last is remembered, as far as there is room.
func TestPacksAreBounded(t *testing.T) {
	var p packs
	list := []Record{{Key: "a"}, {Key: "b"}}
	for seq := uint64(1); seq <= 4; seq++ {
		p.put(seq, list, packsBytes/4)
	}
	p.get(1)
	p.put(5, list, packsBytes/4)
	p.put(6, list, packsBytes/2)
	for seq, want := range map[uint64]bool{1: true, 2: false, 3: false, 4: false, 5: true, 6: true} {
		if got := p.get(seq) != nil; got != want {
			t.Errorf("message %d is remembered: %v", seq, got)
		}
	}
	if p.bytes != packsBytes || len(p.all) != 3 || p.order.Len() != 3 {
		t.Errorf("%d messages with %d bytes", len(p.all), p.bytes)
	}
}
