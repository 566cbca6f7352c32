package gateway

import (
	"container/list"
	"sync"
)

// flows is a table with so many places. When it is full, the guest that has most
// of them loses the one that has been idle for longest, more or less. So a guest
// alone may have all of them, and none can take them from those that have few.
type flows[K comparable, V flow] struct {
	max int

	mu      sync.Mutex
	byKey   map[K]*list.Element  // of flowEntry
	byGuest map[guest]*list.List // the oldest first
}

// flow says when it was last used, by any clock that does not go back.
type flow interface{ lastUsed() int64 }

type flowEntry[K comparable, V flow] struct {
	key  K
	flow V
	from guest
	seen int64 // when the flow was last used, when it was put where it is
}

func newFlows[K comparable, V flow](places int) *flows[K, V] {
	return &flows[K, V]{max: places, byKey: map[K]*list.Element{}, byGuest: map[guest]*list.List{}}
}

func (t *flows[K, V]) get(k K) (f V, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byKey[k]; e != nil {
		return e.Value.(*flowEntry[K, V]).flow, true
	}
	return f, false
}

// put adds a flow under a key that has none. out is the one that had to go, if
// full; the caller ends it.
func (t *flows[K, V]) put(k K, f V, from guest) (out V, full bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if full = len(t.byKey) >= t.max; full {
		e := t.idlest()
		out = e.Value.(*flowEntry[K, V]).flow
		t.delete(e)
	}
	l := t.byGuest[from]
	if l == nil {
		l = list.New()
		t.byGuest[from] = l
	}
	t.byKey[k] = l.PushBack(&flowEntry[K, V]{k, f, from, f.lastUsed()})
	return out, full
}

// idlest finds the flow that is to go: of the guest with most flows the first
// one that has not been used since it was put where it is. Those that have been
// go to the end of the queue; a few of them at a time, so that this takes no
// longer for a full table.
func (t *flows[K, V]) idlest() *list.Element {
	var most *list.List
	for _, l := range t.byGuest {
		if most == nil || l.Len() > most.Len() {
			most = l
		}
	}
	for range 8 {
		e := most.Front().Value.(*flowEntry[K, V])
		used := e.flow.lastUsed()
		if used == e.seen {
			break
		}
		e.seen = used
		most.MoveToBack(most.Front())
	}
	return most.Front()
}

func (t *flows[K, V]) delete(e *list.Element) {
	entry := e.Value.(*flowEntry[K, V])
	delete(t.byKey, entry.key)
	l := t.byGuest[entry.from]
	if l.Remove(e); l.Len() == 0 {
		delete(t.byGuest, entry.from)
	}
}

// remove forgets a flow, if it still is the one under its key.
func (t *flows[K, V]) remove(k K, same func(V) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.byKey[k]; e != nil && same(e.Value.(*flowEntry[K, V]).flow) {
		t.delete(e)
	}
}

func (t *flows[K, V]) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}
