package resolve

import (
	"cmp"
	"container/heap"
	"slices"
)

// order puts the kept packages in unpack order: strongly connected parts (the
// cycles) after what they need, by name where there is no other order, and
// within a part Pre-Depends first.
func (k *keeper) order() []int32 {
	parts := k.components()
	of := map[int32]int{}
	for i, part := range parts {
		for _, n := range part {
			of[n] = i
		}
	}
	edges := make([][]int, len(parts))
	for i, part := range parts {
		for _, n := range part {
			for _, e := range k.edges[n] {
				if of[e.to] != i {
					edges[i] = append(edges[i], of[e.to])
				}
			}
		}
	}
	var out []int32
	for _, i := range topological(edges, func(a, b int) bool { return k.before(parts[a][0], parts[b][0]) }) {
		out = append(out, k.orderPart(parts[i])...)
	}
	return out
}

// orderPart orders a cycle by its Pre-Depends. Should they too form a cycle,
// which Policy forbids, the names decide.
func (k *keeper) orderPart(part []int32) []int32 {
	edges := make([][]int, len(part))
	for i, n := range part {
		for _, e := range k.edges[n] {
			if j := slices.Index(part, e.to); e.pre && j >= 0 && j != i {
				edges[i] = append(edges[i], j)
			}
		}
	}
	var out []int32
	for _, i := range topological(edges, func(a, b int) bool { return a < b }) {
		out = append(out, part[i])
	}
	return out
}

// before orders packages by name, architecture and version.
func (k *keeper) before(a, b int32) bool { return k.compare(a, b) < 0 }

func (k *keeper) compare(a, b int32) int {
	p, q := k.s.vars[a].pkg, k.s.vars[b].pkg
	return cmp.Or(cmp.Compare(p.Name, q.Name), cmp.Compare(p.Architecture, q.Architecture), p.Version.Compare(q.Version))
}

// components gives the strongly connected parts, each sorted by name (Tarjan's
// algorithm, with a stack of its own: chains of dependencies are long).
func (k *keeper) components() [][]int32 {
	type frame struct {
		n    int32
		next int
	}
	var (
		parts   [][]int32
		stack   []int32
		calls   []frame
		index   = map[int32]int{}
		low     = map[int32]int{}
		onStack = map[int32]bool{}
	)
	enter := func(n int32) {
		index[n] = len(index) + 1
		low[n] = index[n]
		stack = append(stack, n)
		onStack[n] = true
		calls = append(calls, frame{n: n})
	}
	leave := func(n int32) {
		if low[n] != index[n] {
			return
		}
		at := slices.Index(stack, n)
		part := slices.Clone(stack[at:])
		stack = stack[:at]
		for _, m := range part {
			onStack[m] = false
		}
		slices.SortFunc(part, k.compare)
		parts = append(parts, part)
	}
	for _, root := range k.kept {
		if index[root] != 0 {
			continue
		}
		enter(root)
		for len(calls) > 0 {
			f := &calls[len(calls)-1]
			if f.next == len(k.edges[f.n]) {
				n := f.n
				calls = calls[:len(calls)-1]
				if len(calls) > 0 {
					up := calls[len(calls)-1].n
					low[up] = min(low[up], low[n])
				}
				leave(n)
				continue
			}
			n, to := f.n, k.edges[f.n][f.next].to
			f.next++
			if index[to] == 0 {
				enter(to)
			} else if onStack[to] {
				low[n] = min(low[n], index[to])
			}
		}
	}
	return parts
}

// topological orders 0..len(needs)-1 so that each follows what it needs, and
// of those that could come next the least comes. What stands in a cycle comes
// when nothing else is left, the least first.
func topological(needs [][]int, less func(a, b int) bool) []int {
	var (
		out     []int
		waiting = make([]int, len(needs)) // needs not yet out
		users   = make([][]int, len(needs))
		taken   = make([]bool, len(needs))
		ready   = &intHeap{less: less}
	)
	for i, list := range needs {
		for _, j := range list {
			users[j] = append(users[j], i)
			waiting[i]++
		}
		if waiting[i] == 0 {
			heap.Push(ready, i)
		}
	}
	for len(out) < len(needs) {
		if ready.Len() == 0 {
			heap.Push(ready, leastLeft(taken, less))
		}
		i := heap.Pop(ready).(int)
		if taken[i] {
			continue
		}
		taken[i] = true
		out = append(out, i)
		for _, u := range users[i] {
			if waiting[u]--; waiting[u] == 0 && !taken[u] {
				heap.Push(ready, u)
			}
		}
	}
	return out
}

func leastLeft(taken []bool, less func(a, b int) bool) int {
	best := -1
	for i, t := range taken {
		if !t && (best < 0 || less(i, best)) {
			best = i
		}
	}
	return best
}

// intHeap is a heap.Interface.
type intHeap struct {
	list []int
	less func(a, b int) bool
}

func (h *intHeap) Len() int           { return len(h.list) }
func (h *intHeap) Less(i, j int) bool { return h.less(h.list[i], h.list[j]) }
func (h *intHeap) Swap(i, j int)      { h.list[i], h.list[j] = h.list[j], h.list[i] }
func (h *intHeap) Push(x any)         { h.list = append(h.list, x.(int)) }
func (h *intHeap) Pop() any {
	x := h.list[len(h.list)-1]
	h.list = h.list[:len(h.list)-1]
	return x
}
