package nbdconf

import "strings"

// nearest returns the key of a section that a misspelt one is most like, or "" when none is like it.
func nearest(word string, in Section) string {
	// The distance allowed grows with the word: a third of it may be wrong.
	best, most := "", len(word)/3
	if len(word) > 2*maxKey {
		return ""
	}
	word = strings.ToLower(word)
	for _, k := range keys {
		if k.Section != in {
			continue
		}
		if d := distance(word, k.Name); d <= most && (best == "" || d < most) {
			best, most = k.Name, d
		}
	}
	return best
}

// maxKey is longer than the name of any key.
const maxKey = 20

// distance is how many letters must be put in, taken out or changed to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
