package session

// What one flow may have waiting in one direction. The oldest goes when there is no room: what is late is worth least, and
// the sender of the flow sees the loss soonest.
const (
	ringDatagrams = 512
	ringOctets    = 768 << 10
)

// ring holds the datagrams that wait. It grows as it needs to.
type ring[T any] struct {
	items  []T
	head   int
	count  int
	octets int
}

// push adds an item of so many octets and reports how many there was no room for.
func (r *ring[T]) push(item T, size int, sizeOf func(T) int, dropped func(T)) (lost int) {
	for r.count > 0 && (r.count == ringDatagrams || r.octets+size > ringOctets) {
		dropped(r.pop(sizeOf))
		lost++
	}
	if r.count == len(r.items) {
		r.grow()
	}
	r.items[(r.head+r.count)%len(r.items)] = item
	r.count++
	r.octets += size
	return lost
}

// pop takes the oldest item. There must be one.
func (r *ring[T]) pop(sizeOf func(T) int) T {
	var none T
	item := r.items[r.head]
	r.items[r.head] = none
	r.head = (r.head + 1) % len(r.items)
	r.count--
	r.octets -= sizeOf(item)
	return item
}

func (r *ring[T]) grow() {
	items := make([]T, min(max(16, 4*len(r.items)), ringDatagrams))
	for i := range r.count {
		items[i] = r.items[(r.head+i)%len(r.items)]
	}
	r.items, r.head = items, 0
}
