package debian

import (
	"context"
	"slices"
	"sort"
	"strings"
)

// CachedNames lists, sorted, up to limit names of a release's packages for an
// architecture that begin with prefix, out of the indexes that the store has.
// Whatever it lacks, or can't be verified, is left out; nothing is ever fetched.
func (c *Client) CachedNames(ctx context.Context, release, arch, prefix string, limit int) []string {
	var out []string
	for _, s := range c.o.Mirror.suitesOf(release) {
		// One that is out of date is good enough for its names.
		r, _ := c.verifyRecord(c.loadRecord(s.inRelease()), s)
		if r == nil {
			continue
		}
		for _, component := range c.o.Mirror.components() {
			for _, forms := range r.packagesFiles(component, arch) {
				if ctx.Err() != nil {
					return nil
				}
				out = append(out, c.cachedNames(releaseOf{s, r}, forms, prefix, limit)...)
			}
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(len(out), limit)]
}

func (c *Client) cachedNames(r releaseOf, forms []string, prefix string, limit int) []string {
	for _, name := range forms {
		if f, x := c.cachedIndex(indexKey(r, name)); x != nil {
			defer f.Close()
			return x.begin(prefix, limit)
		}
	}
	return nil
}

// begin lists up to limit names of packages, none of them virtual, that begin with
// prefix.
func (x *index) begin(prefix string, limit int) (out []string) {
	i := sort.Search(x.len(), func(i int) bool {
		n, _ := x.at(i)
		return string(n) >= prefix
	})
	for ; i < x.len() && len(out) < limit; i++ {
		n, d := x.at(i)
		if !strings.HasPrefix(string(n), prefix) {
			break
		}
		if len(n) > 0 && len(d.offsets()) > 0 {
			out = append(out, string(n))
		}
	}
	return out
}
