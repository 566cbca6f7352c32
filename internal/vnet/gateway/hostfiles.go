package gateway

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// followed is a small file of the host that is read again when it has changed;
// it is looked at no more often than once in followEvery.
type followed[T any] struct {
	path  string
	parse func(io.Reader) T

	mu      sync.Mutex
	looked  time.Time
	changed time.Time
	size    int64
	value   T
}

const (
	followEvery = time.Second
	maxFollowed = 4 << 20 // bytes read of a file
)

func (f *followed[T]) get() T {
	f.mu.Lock()
	due := time.Since(f.looked) >= followEvery
	if due {
		f.looked = time.Now() // others go on with what there is
	}
	value, changed, size := f.value, f.changed, f.size
	f.mu.Unlock()
	if !due {
		return value
	}
	st, err := os.Stat(f.path)
	if err != nil || st.ModTime().Equal(changed) && st.Size() == size {
		return value
	}
	file, err := os.Open(f.path)
	if err != nil {
		return value
	}
	defer file.Close()
	value = f.parse(io.LimitReader(file, maxFollowed))
	f.mu.Lock()
	f.value, f.changed, f.size = value, st.ModTime(), st.Size()
	f.mu.Unlock()
	return value
}

// fieldLines calls f with the words of each line, without comments.
func fieldLines(r io.Reader, comments string, f func([]string)) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		line := s.Text()
		if i := strings.IndexAny(line, comments); i >= 0 {
			line = line[:i]
		}
		if words := strings.Fields(line); len(words) > 1 {
			f(words)
		}
	}
}

// maxServers is how many name servers are used, as by resolv.conf(5).
const maxServers = 3

// parseResolvConf reads the name servers of a resolv.conf(5).
func parseResolvConf(r io.Reader) []netip.AddrPort {
	var servers []netip.AddrPort
	fieldLines(r, "#;", func(w []string) {
		if w[0] != "nameserver" || len(servers) == maxServers {
			return
		}
		if a, err := netip.ParseAddr(w[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, portDNS))
		}
	})
	return servers
}

// hostsFile is a hosts(5) file.
type hostsFile struct {
	addrs map[string][]netip.Addr // by name in lower case
	name  map[netip.Addr]string   // the first name of each address
}

func parseHosts(r io.Reader) hostsFile {
	h := hostsFile{map[string][]netip.Addr{}, map[netip.Addr]string{}}
	fieldLines(r, "#", func(w []string) {
		a, err := netip.ParseAddr(w[0])
		if err != nil {
			return
		}
		a = a.Unmap()
		if _, ok := h.name[a]; !ok {
			h.name[a] = w[1]
		}
		for _, name := range w[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			h.addrs[name] = append(h.addrs[name], a)
		}
	})
	return h
}
