package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"wolffia/internal/vnet/tftp"
)

// tftpServer serves a folder of the host at the gateway's addresses.
type tftpServer struct {
	g    *Gateway
	room *share // transfers

	mu     sync.Mutex
	folder string
	stop   func() // ends the one that runs; nil when there is none
	done   bool
}

func newTFTPServer(g *Gateway) *tftpServer {
	return &tftpServer{g: g, room: newShare(maxTransfers)}
}

// serve makes folder what is served; empty serves none. Transfers of another
// folder end.
func (t *tftpServer) serve(folder string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if folder == t.folder {
		return nil
	}
	if t.done {
		return net.ErrClosed
	}
	var root *os.Root
	if folder != "" {
		var err error
		if root, err = os.OpenRoot(folder); err != nil {
			return fmt.Errorf("TFTP: %w", err)
		}
	}
	if t.stop != nil {
		t.stop()
		t.stop, t.folder = nil, ""
	}
	if root == nil {
		return nil
	}
	stop, err := t.start(root)
	if err != nil {
		root.Close()
		return fmt.Errorf("TFTP: %w", err)
	}
	t.stop, t.folder = stop, folder
	return nil
}

// start serves a folder at all addresses. stop closes it, too.
func (t *tftpServer) start(root *os.Root) (stop func(), err error) {
	ctx, cancel := context.WithCancel(t.g.ctx)
	var wg sync.WaitGroup
	stop = func() {
		cancel()
		wg.Wait()
		root.Close()
	}
	addrs := []netip.Addr{t.g.cfg.Gateway()}
	if !t.g.cfg.NoIPv6 {
		addrs = append(addrs, t.g.cfg.Gateway6())
	}
	for _, a := range addrs {
		at := full(netip.AddrPortFrom(a, portTFTP))
		socket, err := gonet.DialUDP(t.g.stack, &at, nil, protocolOf(a))
		if err != nil {
			cancel()
			wg.Wait()
			return nil, fmt.Errorf("listen at %v: %w", a, err)
		}
		// What is in the way of a block is the headers of IP, UDP and TFTP.
		block := t.g.cfg.MTU - 20 - 8 - 4
		if a.Is6() {
			block -= 20
		}
		srv := tftp.NewServer(root, tftp.Options{MaxBlock: block, MaxSessions: maxTransfers, Admit: t.admit})
		wg.Go(func() {
			_ = srv.Serve(ctx, socket, func(client net.Addr) (net.Conn, error) {
				local, remote := full(netip.AddrPortFrom(a, 0)), full(client.(*net.UDPAddr).AddrPort())
				return gonet.DialUDP(t.g.stack, &local, &remote, protocolOf(a))
			})
		})
	}
	return stop, nil
}

func (t *tftpServer) admit(client net.Addr) (release func(), ok bool) {
	a := client.(*net.UDPAddr).AddrPort().Addr().Unmap()
	from := t.g.near.of(a)
	return func() { t.room.give(from) }, t.room.take(from)
}

func (t *tftpServer) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = true
	if t.stop != nil {
		t.stop()
		t.stop, t.folder = nil, ""
	}
}
