package main

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

// bootSector is what a PC boots from the network: 16-bit code, loaded at
// 0000:7c00, that writes a line to the first serial port and has QEMU exit
// through isa-debug-exit with the status 2*16+1.
func bootSector(line string) string {
	code := []byte{
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, // mov ds, ax
		0xfc,             // cld
		0xbe, 0x1b, 0x7c, // mov si, 0x7c1b: the line
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xac,       // next: lodsb
		0x08, 0xc0, // or al, al
		0x74, 0x03, // jz end
		0xee,       // out dx, al
		0xeb, 0xf8, // jmp next
		0xba, 0xf4, 0x00, // end: mov dx, 0xf4
		0xb0, 0x10, // mov al, 16
		0xee,       // out dx, al
		0xfa, 0xf4, // cli; hlt
	}
	b := string(code) + line + "\x00"
	return b + strings.Repeat("\x00", 20_000-len(b)) // a few blocks
}

// TestLabNetworkBoot boots a PC from a lab's network: QEMU as anybody starts it,
// whose card asks by DHCP, gets the address that is reserved for it, and fetches its
// file by TFTP. A machine of the lab gets
// the same answers, and others when the file changes, while who has plugged in
// stays.
func TestLabNetworkBoot(t *testing.T) {
	parallel(t)
	qemu := tooltest.Require(t, "qemu-system-x86_64", "qemu-system-x86")
	file := small + `
networks:
  lan:
    dhcp: {first: 10.0.2.100, boot-file: pc/hello.0, tftp: ./tftp, options: {ntp-servers: 10.0.2.9 10.0.2.10, 224: hello},
      reservations: [{mac: "02:00:00:00:00:05", address: 10.0.2.77, name: pc}]}
    plugs: [stream: ./lan.stream, vde-switch: ./lan.vde]
machines:
  anna: {networks: [lan]}
`
	p := newPerson(t)
	l := newLab(t, p, file)
	if e := l.fails(2, "up"); !strings.Contains(e, "wolffia.yaml:6:60: there is no folder "+filepath.Join(l.dir, "tftp")) {
		t.Error(e)
	}
	l.folder(t, "lab/tftp")
	program := bootSector("booted from the network\r\n")
	l.write(t, filepath.Join(l.folder(t, "lab/tftp/pc"), "hello.0"), program)
	l.do("up")
	pc := l.start(t, call{dir: l.dir, program: qemu}, strings.Fields(`-M pc,graphics=off -accel tcg -m 32 -nodefaults -no-user-config -display none -serial stdio
		-boot n -netdev stream,id=net,server=off,addr.type=unix,addr.path=./lan.stream -device virtio-net-pci,netdev=net,mac=02:00:00:00:00:05
		-device isa-debug-exit,iobase=0xf4,iosize=4`)...)
	ask := "printf '#!/bin/sh\\n[ $1 = deconfig ] || env\\n' >/tmp/show; chmod +x /tmp/show; udhcpc -f -n -q -i eth0 -O ntpsrv -O 224 -s /tmp/show"
	out := l.in("anna", ask+"; nslookup -type=a pc 10.0.2.3; tftp -g -r pc/hello.0 -l /tmp/got 10.0.2.2; sha256sum /tmp/got; ! tftp -g -r ../wolffia.yaml -l /tmp/out 10.0.2.2")
	for _, want := range []string{
		"boot_file=pc/hello.0\n", "siaddr=10.0.2.2\n", "ip=10.0.2.15\n", "Name:\tpc\nAddress: 10.0.2.77\n", "ntpsrv=10.0.2.9 10.0.2.10\n", fmt.Sprintf("opt224=%x\n", "hello"),
		fmt.Sprintf("%x  /tmp/got\n", sha256.Sum256([]byte(program))),
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in %s", want, out)
		}
	}
	if status := pc.end(t); status != 33 {
		t.Errorf("status %d\n%s", status, pc.err)
	}
	// What the PC's firmware says, which without graphics is on the serial port, too.
	for _, want := range []string{"net0: 10.0.2.77/255.255.255.0 gw 10.0.2.2\r\n", "booted from the network"} {
		if !strings.Contains(pc.out.String(), want) {
			t.Errorf("%q is not in %s", want, pc.out)
		}
	}

	s, _ := p.plug(t, filepath.Join(l.dir, "lan.vde"), host(50))
	s.ping(t, host(15), 56)
	l.in("anna", "echo 1 >/root/life")
	l.file(strings.Replace(file, "boot-file: pc/hello.0,", "boot-file: other.0, next-server: 10.0.2.77,", 1))
	if plan := l.do("up", "--dry-run"); plan != "change network lan: dhcp\n" {
		t.Errorf("the plan is %q", plan)
	}
	l.do("up")
	if out := l.in("anna", "cat /root/life; "+ask); !strings.HasPrefix(out, "1\n") || !strings.Contains(out, "boot_file=other.0\n") || !strings.Contains(out, "siaddr=10.0.2.77\n") {
		t.Error(out)
	}
	s.ping(t, host(15), 56)
}
