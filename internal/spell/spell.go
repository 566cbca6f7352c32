// Package spell finds the words that a mistyped one was probably meant to be.
//
//	spell.Nearest("buidl", []string{"build", "run"}) // "build"
package spell

import "unicode/utf8"

// maxWord bounds the length in bytes of the words that are compared; the cost
// is quadratic in it.
const maxWord = 128

// Nearest is the candidate with the fewest edits from word: insertions,
// deletions, replacements and swaps of neighbours (the optimal string
// alignment distance). It is empty when even the best needs more than a third
// of the word's letters changed, or more than three; the first of equals wins.
func Nearest(word string, candidates []string) string {
	best, name := 4, ""
	limit := max(1, (utf8.RuneCountInString(word)+1)/3)
	for _, c := range candidates {
		if d := Distance(word, c); d < best && d <= limit {
			best, name = d, c
		}
	}
	return name
}

// Distance counts the edits between two words, letter by letter. Words of more
// than 128 bytes are cut there.
func Distance(a, b string) int {
	x, y := []rune(a[:min(len(a), maxWord)]), []rune(b[:min(len(b), maxWord)])
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}
