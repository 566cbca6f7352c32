package mbr

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

const size = 64 << 20

func specimen() Table {
	return Table{
		Signature: 0x12345678,
		Partitions: []Partition{
			{Number: 1, Type: FAT16, Offset: 1 << 20, Size: 8 << 20},
			{Number: 2, Type: Linux, Bootable: true, Offset: 9 << 20, Size: 40 << 20},
			{Number: 4, Type: Swap, Offset: 49 << 20, Size: 15 << 20},
		},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, stdin, tool, pkg string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tooltest.Require(t, tool, pkg), args...)
	cmd.Env, cmd.Stdin = append(os.Environ(), "LC_ALL=C.UTF-8"), strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", tool, args, err, out)
	}
	return string(out)
}

// empty makes a disk of zeros.
func empty(t testing.TB, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	must(t, os.WriteFile(name, nil, 0o600))
	must(t, os.Truncate(name, size))
	return name
}

func disk(t testing.TB, size int64, table Table) string {
	t.Helper()
	name := empty(t, size)
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, Write(f, size, table))
	return name
}

func load(name string) (*Table, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return Read(f, st.Size())
}

func TestRoundTrip(t *testing.T) {
	want := specimen()
	got, err := load(disk(t, size, want))
	must(t, err)
	if got.Signature != want.Signature || !slices.Equal(got.Partitions, want.Partitions) {
		t.Errorf("got %+v", got)
	}
	must(t, got.Check(size))
	if got.UUID(2) != "12345678-02" {
		t.Errorf("PARTUUID is %s", got.UUID(2))
	}
}

// TestGolden has the bytes from the signature on, as sfdisk writes them too.
func TestGolden(t *testing.T) {
	name := disk(t, size, specimen())
	b, err := os.ReadFile(name)
	must(t, err)
	got := hex.EncodeToString(b[BootCode:512])
	want := "785634120000" +
		"00202100062524010008000000400000" +
		"80252501833e38060048000000400100" +
		"00000000000000000000000000000000" +
		"003e3906822820080088010000780000" + "55aa"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	other := empty(t, size)
	run(t, "label: dos\nlabel-id: 0x12345678\n1: start=2048, size=16384, type=6\n2: start=18432, size=81920, type=83, bootable\n4: start=100352, size=30720, type=82\n", "sfdisk", "fdisk", other)
	theirs, err := os.ReadFile(other)
	must(t, err)
	if g := hex.EncodeToString(theirs[BootCode:512]); g != want {
		t.Errorf("sfdisk has %s", g)
	}
}

func TestToolsAcceptOurs(t *testing.T) {
	name := disk(t, size, specimen())
	if out := run(t, "", "sfdisk", "fdisk", "--verify", name); !strings.HasSuffix(out, ":\nNo errors detected.\n") {
		t.Errorf("sfdisk --verify says:\n%s", out)
	}
	dump := run(t, "", "sfdisk", "fdisk", "-d", name)
	for _, line := range []string{
		"label-id: 0x12345678",
		"img1 : start=        2048, size=       16384, type=6\n",
		"img2 : start=       18432, size=       81920, type=83, bootable\n",
		"img4 : start=      100352, size=       30720, type=82\n",
	} {
		if !strings.Contains(dump, line) {
			t.Errorf("sfdisk -d has no %q:\n%s", line, dump)
		}
	}
}

// TestLarge has places beyond all cylinders.
func TestLarge(t *testing.T) {
	const size = 4 << 40
	want := Table{Partitions: []Partition{
		{Number: 1, Type: Linux, Offset: 1 << 20, Size: 1 << 40},
		{Number: 2, Type: Linux, Offset: 1<<40 + 1<<20, Size: MaxSize},
	}}
	name := disk(t, size, want)
	got, err := load(name)
	must(t, err)
	if !slices.Equal(got.Partitions, want.Partitions) {
		t.Errorf("got %+v", got)
	}
	b := make([]byte, 512)
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	_, err = f.ReadAt(b, 0)
	must(t, err)
	if last := b[446+5 : 446+8]; !bytes.Equal(last, []byte{0xFE, 0xFF, 0xFF}) {
		t.Errorf("the last cylinder is %x", last)
	}
}

func TestProtective(t *testing.T) {
	for _, c := range []struct {
		size int64
		last string
		n    uint32
	}{{64 << 20, "282008", 131071}, {4 << 40, "ffffff", 1<<32 - 1}} {
		name := empty(t, c.size)
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		_, err = f.WriteAt(bytes.Repeat([]byte{0x90}, BootCode), 0)
		must(t, err)
		must(t, WriteProtective(f, c.size/512))
		b := make([]byte, 512)
		_, err = f.ReadAt(b, 0)
		must(t, err)
		if got := hex.EncodeToString(b[446+1 : 446+8]); got != "000200ee"+c.last {
			t.Errorf("the partition is %s", got)
		}
		if b[BootCode-1] != 0x90 {
			t.Error("the boot code is gone")
		}
		table, err := Read(f, c.size)
		must(t, err)
		if !table.Protected() || table.Partitions[0].Size != int64(c.n)*512 {
			t.Errorf("read %+v", table)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *Table)
		say    string
	}{
		{"overlap", func(t *Table) { t.Partitions[1].Offset = 8 << 20 }, "partition 2: it overlaps partition 1"},
		{"over the table", func(t *Table) { t.Partitions[0].Offset = 0 }, "out of range"},
		{"beyond", func(t *Table) { t.Partitions[2].Size = 16 << 20 }, "beyond the disk's end"},
		{"half sectors", func(t *Table) { t.Partitions[0].Offset++ }, "whole sectors"},
		{"too large", func(t *Table) { t.Partitions[0].Size = MaxSize + 512 }, "a GPT has more"},
		{"empty", func(t *Table) { t.Partitions[0].Size = 0 }, "out of range"},
		{"no type", func(t *Table) { t.Partitions[0].Type = 0 }, "no type"},
		{"two are bootable", func(t *Table) { t.Partitions[0].Bootable = true }, "another one is bootable"},
		{"same number", func(t *Table) { t.Partitions[2].Number = 1 }, "the number is there twice"},
		{"logical", func(t *Table) { t.Partitions[2].Number = 5 }, "can't be written"},
		{"negative", func(t *Table) { t.Partitions[2].Number = -1 }, "out of range"},
		{"extended", func(t *Table) { t.Partitions[2].Type = Extended }, "can't be written"},
		{"five", func(t *Table) { t.Partitions = make([]Partition, 5) }, "more than the table's 4"},
	} {
		table := specimen()
		c.change(&table)
		if err := Write(nil, size, table); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.say)
		}
	}
}

// logical makes a disk with three logical partitions.
func logical(t testing.TB) string {
	name := empty(t, size)
	run(t, "label: dos\n1: start=2048, size=2048, type=83\n2: start=4096, size=100000, type=5\n5: size=4096, type=83\n6: size=8192, type=82\n7: type=c\n", "sfdisk", "fdisk", name)
	return name
}

func TestReadsLogical(t *testing.T) {
	got, err := load(logical(t))
	must(t, err)
	want := []Partition{
		{Number: 1, Type: Linux, Offset: 2048 * 512, Size: 2048 * 512},
		{Number: 2, Type: Extended, Offset: 4096 * 512, Size: 100000 * 512},
		{Number: 5, Type: Linux, Offset: 6144 * 512, Size: 4096 * 512},
		{Number: 6, Type: Swap, Offset: 12288 * 512, Size: 8192 * 512},
		{Number: 7, Type: FAT32LBA, Offset: 22528 * 512, Size: 81568 * 512},
	}
	if !slices.Equal(got.Partitions, want) {
		t.Errorf("got %v", got.Partitions)
	}
	must(t, got.Check(size))
	got.Partitions[1].Size = 50000 * 512
	if err := got.Check(size); err == nil || !strings.Contains(err.Error(), "partition 7: it is in no extended partition") {
		t.Errorf("got %v", err)
	}
}

func TestHostile(t *testing.T) {
	good, err := os.ReadFile(logical(t))
	must(t, err)
	second := good[(4096+6144)*512:] // the chain's second sector
	for _, c := range []struct {
		name   string
		damage func(b []byte) []byte
		say    string
	}{
		{"none", func(b []byte) []byte { b[511] = 0; return b }, ErrNone.Error()},
		{"flags", func(b []byte) []byte { b[446] = 7; return b }, ErrNone.Error()},
		{"tiny", func(b []byte) []byte { return b[:300] }, ErrNone.Error()},
		{"cut off", func(b []byte) []byte { return b[:3<<20] }, "the chain of logical partitions leads to byte 5242880, which is outside"},
		{"loop", func(b []byte) []byte { copy(b[4096*512+446+16+8:], "\x00\x00\x00\x00"); return b }, "is a loop at byte 2097152"},
		{"out of it", func(b []byte) []byte { copy(b[4096*512+446+16+8:], "\xFF\xFF\xFF\xFF"); return b }, "outside"},
		{"nothing there", func(b []byte) []byte { b[len(b)-len(second)+510] = 0; return b }, "where there is none"},
	} {
		b := c.damage(bytes.Clone(good))
		if _, err := Read(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.say)
		}
	}
}

// FuzzRead damages a disk with two logical partitions: edits are rows of an
// offset of two bytes, a length of one, and as many bytes.
func FuzzRead(f *testing.F) {
	good := make([]byte, 16<<10)
	record := func(at int, kind Type, start, count uint32) {
		good[at+4] = byte(kind)
		binary.LittleEndian.PutUint32(good[at+8:], start)
		binary.LittleEndian.PutUint32(good[at+12:], count)
	}
	record(446, Linux, 1, 3)
	record(446+16, Extended, 4, 28)
	record(4*512+446, Linux, 1, 3)
	record(4*512+446+16, Extended, 4, 24)
	record(8*512+446, FAT12, 2, 4)
	for _, n := range []int{0, 4, 8} {
		copy(good[n*512+510:], "\x55\xAA")
	}
	f.Fuzz(func(t *testing.T, edits []byte) {
		b := bytes.Clone(good)
		for len(edits) > 3 {
			off, n := int(binary.LittleEndian.Uint16(edits)), min(int(edits[2]), len(edits)-3)
			copy(b[min(off, len(b)):], edits[3:3+n])
			edits = edits[3+n:]
		}
		table, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		_ = table.Check(int64(len(b)))
		for _, p := range table.Partitions {
			if p.Offset < 0 || p.Size <= 0 {
				t.Errorf("%+v is out of range", p)
			}
		}
	})
}

func Example() {
	f, err := os.CreateTemp("", "disk-*.img")
	if err != nil {
		panic(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	const size = 16 << 20
	if err := f.Truncate(size); err != nil {
		panic(err)
	}
	t := Table{Signature: Signature([]byte("seed")), Partitions: []Partition{{Type: Linux, Bootable: true, Offset: 1 << 20, Size: 15 << 20}}}
	if err := Write(f, size, t); err != nil {
		panic(err)
	}
	again, err := Read(f, size)
	if err != nil {
		panic(err)
	}
	for _, p := range again.Partitions {
		fmt.Println(p.Number, p.Type, p.Bootable, p.Offset, p.Size)
	}
	// Output: 1 linux true 1048576 15728640
}
