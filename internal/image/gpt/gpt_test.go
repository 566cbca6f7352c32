package gpt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wolffia/internal/tooltest"
)

const size = 64 << 20

// specimen has partitions of all kinds, one with a number of its own.
func specimen() Table {
	return Table{
		GUID: Derive([]byte("specimen"), "disk"),
		Partitions: []Partition{
			{Type: BIOSBoot, Offset: Align, Size: 1 << 20, Name: "bios"},
			{Type: ESP, Offset: 2 << 20, Size: 8 << 20, Name: "EFI system", Attributes: Required},
			{Type: Root("amd64"), Offset: 10 << 20, Size: 20 << 20, Name: "wurzel 🌱 ärger"},
			{Number: 9, Type: Linux, Offset: 30 << 20, Size: 33 << 20, Name: strings.Repeat("x", MaxName)},
		},
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// disk writes t into a new file.
func disk(t testing.TB, size int64, table Table) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(name)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	must(t, Write(f, size, table))
	return name
}

func load(t testing.TB, name string) *Table {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	st, err := f.Stat()
	must(t, err)
	table, err := Read(f, st.Size())
	must(t, err)
	return table
}

// run runs a tool in the C locale and gives all that it says.
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

func TestRoundTrip(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		want := specimen()
		want.SectorSize = sector
		got := load(t, disk(t, size, want))
		full, err := want.complete()
		must(t, err)
		if fmt.Sprint(*got) != fmt.Sprint(full) {
			t.Errorf("got  %v\nwant %v", *got, full)
		}
		must(t, got.Check(size))
	}
}

// TestGolden notices when the bytes change.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		table Table
		want  string
	}{
		{specimen(), "68744308"},
		{Table{Partitions: []Partition{{Type: Linux, Offset: Align, Size: Align}}}, "b40dc450"},
	} {
		b, err := os.ReadFile(disk(t, size, c.table))
		must(t, err)
		if got := fmt.Sprintf("%x", sha256.Sum256(b))[:8]; got != c.want {
			t.Errorf("the table's digest is %s", got)
		}
	}
}

func TestToolsAcceptOurs(t *testing.T) {
	name := disk(t, size, specimen())
	if out := run(t, "", "sgdisk", "gdisk", "-v", name); !strings.Contains(out, "No problems found") || strings.Contains(strings.ToLower(out), "warning") {
		t.Errorf("sgdisk -v says:\n%s", out)
	}
	if out := run(t, "", "sfdisk", "fdisk", "--verify", name); !strings.Contains(out, ":\nNo errors detected.\nHeader version: 1.0\nUsing 4 out of 128 partitions.\n") {
		t.Errorf("sfdisk --verify says:\n%s", out)
	}
	dump := run(t, "", "sfdisk", "fdisk", "-d", name)
	want := specimen()
	for _, p := range want.Partitions {
		if p.Number == 0 {
			p.Number = slices.IndexFunc(want.Partitions, func(o Partition) bool { return o.Name == p.Name }) + 1
		}
		line := fmt.Sprintf("img%d : start=%12d, size=%12d, type=%s, uuid=%s, name=", p.Number,
			p.Offset/512, p.Size/512, strings.ToUpper(p.Type.String()), strings.ToUpper(PartitionGUID(want.GUID, p.Number).String()))
		if !strings.Contains(dump, line) {
			t.Errorf("sfdisk -d has no %q:\n%s", line, dump)
		}
	}
	if !strings.Contains(dump, "label-id: "+strings.ToUpper(want.GUID.String())) || !strings.Contains(dump, `attrs="RequiredPartition"`) {
		t.Errorf("sfdisk -d says:\n%s", dump)
	}
}

// TestToolsKnowTheTypes compares our table of types with the tools' own.
func TestToolsKnowTheTypes(t *testing.T) {
	known := strings.ToLower(run(t, "", "sfdisk", "fdisk", "--label", "gpt", "-T"))
	for _, ty := range typeNames {
		if !strings.Contains(known, ty.guid.String()) {
			t.Errorf("%s: sfdisk does not know %s", ty.name, ty.guid)
		}
	}
	for arch, want := range map[string]string{
		"amd64": "Linux root (x86-64)", "i386": "Linux root (x86)", "arm64": "Linux root (ARM-64)", "armhf": "Linux root (ARM)",
		"riscv64": "Linux root (RISC-V-64)", "s390x": "Linux root (S390X)", "ppc64el": "Linux root (PPC64LE)", "loong64": "Linux root (LoongArch-64)",
	} {
		if !strings.Contains(known, Root(arch).String()+"  "+strings.ToLower(want)) {
			t.Errorf("%s: sfdisk knows no %s as %s", arch, Root(arch), want)
		}
	}
}

func TestReadsWhatToolsWrite(t *testing.T) {
	for tool, write := range map[string]func(name string){
		"sfdisk": func(name string) {
			run(t, "label: gpt\nsize=1M,type=uefi,name=esp\nsize=2M,type=linux,name=\"zwei ü\",attrs=LegacyBIOSBootable\n", "sfdisk", "fdisk", name)
		},
		"sgdisk": func(name string) {
			run(t, "", "sgdisk", "gdisk", "-n", "1:0:+1M", "-t", "1:ef00", "-c", "1:esp", "-n", "2:0:+2M", "-t", "2:8300", "-c", "2:zwei ü", "-A", "2:set:2", name)
		},
	} {
		name := filepath.Join(t.TempDir(), "disk.img")
		must(t, os.WriteFile(name, nil, 0o600))
		must(t, os.Truncate(name, 16<<20))
		write(name)
		got := load(t, name)
		must(t, got.Check(16<<20))
		for i := range got.Partitions {
			if got.Partitions[i].GUID == (GUID{}) {
				t.Errorf("%s: partition %d has no GUID", tool, i+1)
			}
			got.Partitions[i].GUID = GUID{}
		}
		want := []Partition{
			{Number: 1, Type: ESP, Offset: 1 << 20, Size: 1 << 20, Name: "esp"},
			{Number: 2, Type: Linux, Offset: 2 << 20, Size: 2 << 20, Name: "zwei ü", Attributes: LegacyBoot},
		}
		if !slices.Equal(got.Partitions, want) || got.Damage != nil {
			t.Errorf("%s: got %v, damage %v", tool, got.Partitions, got.Damage)
		}
	}
}

// TestDamage breaks either copy, and both.
func TestDamage(t *testing.T) {
	good, err := os.ReadFile(disk(t, size, specimen()))
	must(t, err)
	for _, c := range []struct {
		name   string
		damage func(b []byte) []byte
		say    string // in Damage
		fail   string
	}{
		{"none", func(b []byte) []byte { return b }, "", ""},
		{"first header", func(b []byte) []byte { b[512+40] ^= 1; return b }, "backup is used: the checksum of the header", ""},
		{"first signature", func(b []byte) []byte { b[512] ^= 1; return b }, "backup is used: there is no GUID", ""},
		{"first entries", func(b []byte) []byte { b[1024+56] ^= 1; return b }, "backup is used: the checksum of the entries", ""},
		{"wiped start", func(b []byte) []byte { clear(b[:34*512]); return b }, "protective MBR is damaged", ""},
		{"backup", func(b []byte) []byte { b[len(b)-512+40] ^= 1; return b }, "the backup is damaged: the checksum of the header", ""},
		{"backup entries", func(b []byte) []byte { b[len(b)-33*512] ^= 1; return b }, "the backup is damaged: the checksum of the entries", ""},
		{"longer disk", func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) }, "", ""},
		{"cut off", func(b []byte) []byte { return b[:32<<20] }, "sector 131071 is not on the disk", ""},
		{"no protective MBR", func(b []byte) []byte { b[450] = 0x83; return b }, "no protective partition", ""},
		{"both", func(b []byte) []byte { b[512+40] ^= 1; b[len(b)-512+40] ^= 1; return b }, "", "both copies are damaged"},
		{"neither", func(b []byte) []byte { clear(b[:1024]); clear(b[len(b)-512:]); return b }, "", ErrNone.Error()},
		{"tiny", func(b []byte) []byte { return b[:100] }, "", ErrNone.Error()},
		{"empty", func(b []byte) []byte { return nil }, "", ErrNone.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.damage(bytes.Clone(good))
			got, err := Read(bytes.NewReader(b), int64(len(b)))
			if c.fail != "" {
				if err == nil || !strings.Contains(err.Error(), c.fail) {
					t.Errorf("got %v, want %q", err, c.fail)
				}
				return
			}
			must(t, err)
			if said := errors.Join(got.Damage...); c.say == "" && said != nil || c.say != "" && !strings.Contains(fmt.Sprint(said), c.say) {
				t.Errorf("damage is %v, want %q", said, c.say)
			}
			if len(got.Partitions) != 4 || got.Partitions[2].Name != "wurzel 🌱 ärger" {
				t.Errorf("partitions are %v", got.Partitions)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *Table)
		say    string
	}{
		{"overlap", func(t *Table) { t.Partitions[1].Offset = Align }, "partition 2: it overlaps partition 1"},
		{"over the table", func(t *Table) { t.Partitions[0].Offset = 33 * 512 }, "are not within 17408"},
		{"over the backup", func(t *Table) { t.Partitions[3].Size = 34 << 20 }, "are not within"},
		{"half sectors", func(t *Table) { t.Partitions[0].Offset++ }, "whole sectors"},
		{"no type", func(t *Table) { t.Partitions[0].Type = GUID{} }, "it has no type"},
		{"no size", func(t *Table) { t.Partitions[0].Size = 0 }, "out of range"},
		{"long name", func(t *Table) { t.Partitions[0].Name = strings.Repeat("🌱", 19) }, "longer than 36 units"},
		{"bad name", func(t *Table) { t.Partitions[0].Name = "\xFF" }, "not UTF-8"},
		{"same number", func(t *Table) { t.Partitions[3].Number = 1 }, "the number is there twice"},
		{"number", func(t *Table) { t.Partitions[3].Number = 129 }, "not within 1 and 128"},
		{"same GUID", func(t *Table) { t.Partitions[0].GUID = ESP; t.Partitions[1].GUID = ESP }, "it has the GUID of partition 1"},
		{"sector size", func(t *Table) { t.SectorSize = 2048 }, "neither 512 nor 4096"},
	} {
		table := specimen()
		c.change(&table)
		if err := Write(discard{}, size, table); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.say)
		}
	}
	if err := Write(discard{}, 64*512, Table{}); err == nil || !strings.Contains(err.Error(), "too small") {
		t.Errorf("a tiny disk: got %v", err)
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

var _ io.WriterAt = discard{}

func TestNames(t *testing.T) {
	for _, name := range []string{"esp", "root-amd64", "root-riscv64", "linux", "12345678-9abc-def0-1234-56789abcdef0"} {
		g, err := ParseType(name)
		must(t, err)
		if g.TypeName() != name {
			t.Errorf("%s is called %s", name, g.TypeName())
		}
	}
	for _, name := range []string{"", "root-", "root-vax", "12345678-9abc-def0-1234-56789abcdefg", "12345678x9abc-def0-1234-56789abcdef0"} {
		if g, err := ParseType(name); err == nil {
			t.Errorf("%q is %s", name, g)
		}
	}
}

// memory is a disk of its length.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// FuzzRead damages a good disk: edits are rows of an offset of two bytes, a
// length of one, and as many bytes. Where mend is set, the checksums are made
// right again.
func FuzzRead(f *testing.F) {
	good := make(memory, 128<<10)
	table := Table{Partitions: []Partition{
		{Type: ESP, Offset: 20 << 10, Size: 40 << 10, Name: "esp"},
		{Type: Linux, Offset: 60 << 10, Size: 512, Name: "root"},
	}}
	must(f, Write(good, int64(len(good)), table))
	big := make(memory, 128<<10)
	table.Partitions = []Partition{{Type: Linux, Offset: 32 << 10, Size: 32 << 10}}
	table.SectorSize = bigSector
	must(f, Write(big, int64(len(big)), table))
	f.Fuzz(func(t *testing.T, large, mend bool, edits []byte) {
		b, sector := bytes.Clone(good), 512
		if large {
			b, sector = bytes.Clone(big), bigSector
		}
		for len(edits) > 3 {
			off, n := int(le.Uint16(edits)), min(int(edits[2]), len(edits)-3)
			copy(b[off:], edits[3:3+n])
			edits = edits[3+n:]
		}
		if mend {
			raw := b[sector:]
			at := int(le.Uint64(raw[72:])%256) * sector
			n := int(le.Uint32(raw[80:])) * int(le.Uint32(raw[84:]))
			if at <= len(b) && n >= 0 && n <= len(b)-at {
				le.PutUint32(raw[88:], crc32.ChecksumIEEE(b[at:at+n]))
			}
			clear(raw[16:20])
			if size := int(le.Uint32(raw[12:])); size >= 20 && size <= sector {
				le.PutUint32(raw[16:], crc32.ChecksumIEEE(raw[:size]))
			}
		}
		table, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		_ = table.Check(int64(len(b)))
		for _, p := range table.Partitions {
			if p.Offset < 0 || p.Size <= 0 || p.Offset+p.Size < 0 {
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
	if err := Write(f, size, Table{Partitions: []Partition{{Type: Linux, Offset: Align, Size: 8 << 20, Name: "root"}}}); err != nil {
		panic(err)
	}
	t, err := Read(f, size)
	if err != nil {
		panic(err)
	}
	for _, p := range t.Partitions {
		fmt.Println(p.Number, p.Type.TypeName(), p.Offset, p.Size, p.Name)
	}
	// Output: 1 linux 1048576 8388608 root
}
