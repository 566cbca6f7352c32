package debian

import (
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"wolffia/internal/event"
	"wolffia/internal/store"
)

// Options of [New]. Only Store is needed.
type Options struct {
	Store     *store.Store
	Mirror    Mirror
	MirrorErr error    // why there is no mirror; returned when one is needed
	Keyrings  []string // files of public keys that are trusted too
	Events    event.Sink
	Getenv    func(string) string // for http_proxy, https_proxy and no_proxy; nil: no proxy

	MaxAge         time.Duration // how long what a mirror said is taken without asking again; 0 means 24 hours
	Update         bool          // ask the mirror again whatever the age
	Offline        bool          // never use the network
	AllowExpired   bool          // take an InRelease that is past its Valid-Until, with a warning
	AllowDowngrade bool          // take an InRelease that is older than the one before

	Idle     time.Duration    // how long a mirror may send next to nothing; 0 means 30 seconds
	Parallel int              // downloads at the same time; 0 means 6
	Now      func() time.Time // the clock; nil means time.Now

	pause time.Duration // before a request is repeated; 0 means half a second
}

func (o Options) withDefaults() Options {
	o.Events = event.Or(o.Events)
	if o.MaxAge == 0 {
		o.MaxAge = 24 * time.Hour
	}
	if o.Idle == 0 {
		o.Idle = 30 * time.Second
	}
	if o.Parallel == 0 {
		o.Parallel = 6
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.pause == 0 {
		o.pause = 500 * time.Millisecond
	}
	return o
}

// Client fetches from one mirror into one store. Its methods may be called
// from any goroutine.
type Client struct {
	o     Options
	store *store.Store
	fetch *fetcher
	keys  func() (openpgp.EntityList, error)
	said  sync.Map // warnings that were given already
}

// New makes a client. It touches neither the network nor the disk.
func New(o Options) *Client {
	o = o.withDefaults()
	c := &Client{o: o, store: o.Store}
	c.fetch = newFetcher(&c.o)
	c.keys = sync.OnceValues(func() (openpgp.EntityList, error) {
		found := append([]string{hostKeyring}, o.Mirror.Keyrings...)
		return loadKeyring(o.Keyrings, found, o.Mirror.Keys)
	})
	return c
}

func (c *Client) now() time.Time { return c.o.Now() }

func (c *Client) warn(task, subject, message string) {
	c.o.Events.Emit(event.Event{Kind: event.Warn, Task: task, Subject: redact(subject), Message: message})
}

func (c *Client) warnOnce(task, subject, message string) {
	if _, said := c.said.LoadOrStore(task+subject+message, true); !said {
		c.warn(task, subject, message)
	}
}

func (c *Client) noMirror() error {
	if c.o.MirrorErr != nil {
		return c.o.MirrorErr
	}
	return &NoMirrorError{}
}
