package gateway

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// SetDHCP replaces Config.DHCP. Leases stay as they are: guests hear of changes
// when they ask the next time. On an error nothing has changed.
func (g *Gateway) SetDHCP(conf DHCP) error {
	err := conf.check(&g.cfg)
	if err == nil {
		err = g.tftp.serve(conf.TFTP)
	}
	if err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	g.dhcp.mu.Lock()
	g.dhcp.configure(conf)
	g.dhcp.mu.Unlock()
	return nil
}

// SetReservations replaces Config.Reservations. A guest whose reservation is
// gone keeps its address as a lease, if it has asked for it; one whose address
// is now another's is told so when it renews its lease. On an error nothing has
// changed.
func (g *Gateway) SetReservations(list []Reservation) error {
	if err := g.cfg.checkReservations(list); err != nil {
		return fmt.Errorf("gateway: %w", err)
	}
	g.dhcp.mu.Lock()
	g.dhcp.reserve(list)
	g.dhcp.mu.Unlock()
	return nil
}

// configure takes what the options say; their bytes are not copied.
func (d *dhcpServer) configure(conf DHCP) {
	conf.First, conf.Last = conf.bounds(d.g.cfg.Subnet)
	d.conf = conf
	d.measure()
}

// measure counts the addresses that are there for guests without a reservation.
func (d *dhcpServer) measure() {
	a, b := d.conf.First.As4(), d.conf.Last.As4()
	n := int(binary.BigEndian.Uint32(b[:])) - int(binary.BigEndian.Uint32(a[:])) + 1
	for a := range d.g.local {
		if d.conf.contains(a) {
			n--
		}
	}
	for a, l := range d.byAddr {
		if l.reserved && d.conf.contains(a) {
			n--
		}
	}
	d.room.resize(min(maxLeases, n))
}

// reserve makes the list what is reserved.
func (d *dhcpServer) reserve(list []Reservation) {
	wanted := map[[6]byte]Reservation{}
	for _, r := range list {
		wanted[[6]byte(r.MAC)] = r
	}
	for mac, l := range d.byMAC {
		if _, ok := wanted[mac]; !ok && l.reserved {
			d.unreserve(l)
		}
	}
	for _, r := range list {
		if r.Addr.IsValid() {
			d.fix(r)
		}
	}
	// Reservations that leave the address to the server get theirs at once, in
	// the order given, so that names work before the guest has asked.
	for _, r := range list {
		if r.Addr.IsValid() {
			continue
		}
		l := d.byMAC[[6]byte(r.MAC)]
		if l == nil {
			l = &lease{mac: [6]byte(r.MAC)}
			d.byMAC[l.mac] = l
		}
		if !l.addr.IsValid() {
			if a, ok := d.free(netip.Addr{}, time.Time{}); ok {
				l.addr, d.byAddr[a] = a, l
			}
		}
		d.settle(l, r)
	}
	d.measure()
}

// unreserve makes a reservation an ordinary lease, or nothing.
func (d *dhcpServer) unreserve(l *lease) {
	d.rename(l, "")
	l.reserved = false
	if l.until.IsZero() || !d.inRange(l.addr) {
		d.drop(l)
	}
}

// fix gives a card the address that is reserved for it, whoever has it.
func (d *dhcpServer) fix(r Reservation) {
	if old := d.byAddr[r.Addr]; old != nil && old.mac != [6]byte(r.MAC) {
		if old.reserved { // its own address changes, too: its turn comes
			delete(d.byAddr, r.Addr)
			old.addr = netip.Addr{}
		} else {
			d.drop(old)
		}
	}
	l := d.byMAC[[6]byte(r.MAC)]
	if l == nil {
		l = &lease{mac: [6]byte(r.MAC)}
		d.byMAC[l.mac] = l
	}
	if l.addr.IsValid() && l.addr != r.Addr && d.byAddr[l.addr] == l {
		delete(d.byAddr, l.addr)
	}
	l.addr, d.byAddr[r.Addr] = r.Addr, l
	d.settle(l, r)
}

// settle makes a lease a reservation, which takes no room from anybody.
func (d *dhcpServer) settle(l *lease, r Reservation) {
	d.giveRoom(l)
	l.reserved = true
	if l.name != r.Name {
		d.rename(l, r.Name)
	}
}

// drop forgets a lease.
func (d *dhcpServer) drop(l *lease) {
	d.giveRoom(l)
	d.rename(l, "")
	if d.byMAC[l.mac] == l {
		delete(d.byMAC, l.mac)
	}
	if d.byAddr[l.addr] == l {
		delete(d.byAddr, l.addr)
	}
}

func (d *dhcpServer) giveRoom(l *lease) {
	if l.holds {
		l.holds = false
		d.room.give(l.owner)
	}
}

// assign gives the card's lease, if need be a new one, with the address that
// it wants if that is free. Nobody gets more than its share, so that a guest
// that makes up cards leaves addresses for the others.
func (d *dhcpServer) assign(from guest, mac [6]byte, wanted netip.Addr, now time.Time) *lease {
	l := d.byMAC[mac]
	if l != nil && l.addr.IsValid() {
		return l
	}
	addr, ok := d.free(wanted, now)
	if !ok {
		return nil
	}
	if old := d.byAddr[addr]; old != nil { // it has ended
		d.drop(old)
	}
	if l == nil { // else it is reserved, and there was no address until now
		if !d.room.take(from) && !d.recycle(from, now) {
			return nil
		}
		l = &lease{mac: mac, owner: from, holds: true}
	}
	l.addr, l.until = addr, now.Add(offerTime)
	d.byMAC[mac], d.byAddr[addr] = l, l
	return l
}

// recycle ends the guest's lease that has run out first, and passes its room on.
func (d *dhcpServer) recycle(from guest, now time.Time) bool {
	var oldest *lease
	for _, l := range d.byAddr {
		if l.holds && l.owner == from && l.until.Before(now) && (oldest == nil || l.until.Before(oldest.until)) {
			oldest = l
		}
	}
	if oldest == nil {
		return false
	}
	oldest.holds = false
	d.drop(oldest)
	return true
}

// inRange says whether an address is one that leases have.
func (d *dhcpServer) inRange(a netip.Addr) bool {
	return d.conf.contains(a) && !d.g.local[a]
}

// free finds an address: the wanted one, else the first that nobody ever had,
// else the one whose lease ended first.
func (d *dhcpServer) free(wanted netip.Addr, now time.Time) (netip.Addr, bool) {
	if wanted.IsValid() && d.inRange(wanted) && d.byAddr[wanted] == nil && len(d.byAddr) < maxLeases {
		return wanted, true
	}
	var oldest *lease
	a := d.conf.First
	for n := 0; n < maxLeases && !d.conf.Last.Less(a); a, n = a.Next(), n+1 {
		l := d.byAddr[a]
		if l == nil {
			if d.g.local[a] {
				continue
			}
			return a, true
		}
		if !l.reserved && l.until.Before(now) && (oldest == nil || l.until.Before(oldest.until)) {
			oldest = l
		}
	}
	if oldest == nil {
		return netip.Addr{}, false
	}
	return oldest.addr, true
}

// decline sets an address aside that a guest found taken.
func (d *dhcpServer) decline(mac [6]byte, addr netip.Addr, now time.Time) {
	l := d.byMAC[mac]
	if l == nil || l.addr != addr || l.reserved {
		return
	}
	// It goes on to count as the guest's, which could decline all of them.
	delete(d.byMAC, mac)
	d.rename(l, "")
	l.mac, l.until = [6]byte{}, now.Add(leaseTime/24)
}
