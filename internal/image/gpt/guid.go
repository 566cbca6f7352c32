package gpt

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// GUID is a globally unique identifier, its bytes in the order in which it is
// written as text. On the disk the first three fields are little-endian.
type GUID [16]byte

// ParseGUID reads the usual form, in letters of either case.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("parse GUID %.80q: it is not of the form 00000000-0000-0000-0000-000000000000", s)
	}
	if _, err := hex.Decode(g[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return GUID{}, fmt.Errorf("parse GUID %q: %w", s, err)
	}
	return g, nil
}

// String is the form that Linux uses for PARTUUID, in lower case.
func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[0:4], g[4:6], g[6:8], g[8:10], g[10:16])
}

// MarshalText is String.
func (g GUID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText is [ParseGUID].
func (g *GUID) UnmarshalText(b []byte) (err error) {
	*g, err = ParseGUID(string(b))
	return err
}

// Derive makes a GUID of a digest of seed, another for each purpose.
func Derive(seed []byte, purpose string) GUID {
	sum := sha256.Sum256(append([]byte("wolffia gpt "+purpose+"\x00"), seed...))
	g := GUID(sum[:16])
	g[6] = g[6]&0x0F | 0x80 // RFC 9562, version 8
	g[8] = g[8]&0x3F | 0x80
	return g
}

// swapped turns the form of the disk into that of the text, and back.
func (g GUID) swapped() GUID {
	return GUID{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]}
}

// mustGUID is for the table below.
func mustGUID(s string) GUID {
	g, err := ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// Types of partitions. Those of root file systems differ by architecture: see
// [Root].
var (
	ESP      = mustGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b") // the EFI system partition
	BIOSBoot = mustGUID("21686148-6449-6e6f-744e-656564454649") // holds GRUB's core image
	Linux    = mustGUID("0fc63daf-8483-4772-8e79-3d69d8477de4") // any file system of Linux
	Swap     = mustGUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f")
	Boot     = mustGUID("bc13c2ff-59e6-4262-a352-b275fd6f7172") // XBOOTLDR
	Home     = mustGUID("933ac7e1-2eb4-4f13-b844-0e14e2aef915")
	Basic    = mustGUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7") // Microsoft's, for FAT and NTFS
)

// roots are the root partitions that the discoverable partitions specification
// (https://uapi-group.org/specifications/specs/discoverable_partitions_specification/)
// gives to Debian's architectures.
var roots = []struct {
	arch string
	guid GUID
}{
	{"amd64", mustGUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")},
	{"i386", mustGUID("44479540-f297-41b2-9af7-d131d5f0458a")},
	{"arm64", mustGUID("b921b045-1df0-41c3-af44-4c6f280d3fae")},
	{"armhf", mustGUID("69dad710-2ce4-4e3c-b16c-21a1d49abed3")},
	{"riscv64", mustGUID("72ec70a6-cf74-40e6-bd49-4bda08e8f224")},
	{"loong64", mustGUID("77055800-792c-4f94-b39a-98c91b762bb6")},
	{"ppc64el", mustGUID("c31c45e6-3f39-412e-80fb-4809c4980599")},
	{"s390x", mustGUID("5eead9a9-fe09-4a1e-a1d7-520d00531306")},
}

// Root is the type of a root partition for one of Debian's architectures; for
// one that has none it is [Linux].
func Root(arch string) GUID {
	for _, r := range roots {
		if r.arch == arch {
			return r.guid
		}
	}
	return Linux
}

// typeNames has those that are seen on disks of Linux machines.
var typeNames = []struct {
	name string
	guid GUID
}{
	{"esp", ESP}, {"bios-boot", BIOSBoot}, {"linux", Linux}, {"swap", Swap}, {"xbootldr", Boot}, {"home", Home}, {"basic", Basic},
	{"lvm", mustGUID("e6d6d379-f507-44c2-a23c-238f2a3df928")},
	{"raid", mustGUID("a19d880f-05fc-4d3b-a006-743f0f84911e")},
	{"srv", mustGUID("3b8f8425-20e0-4f3b-907f-1a25a76f98e8")},
	{"reserved", mustGUID("e3c9e316-0b5c-4db8-817d-f92df00215ae")}, // Microsoft's
}

// TypeName is a short name for a partition's type, such as "esp" or
// "root-arm64", or its GUID.
func (g GUID) TypeName() string {
	for _, t := range typeNames {
		if t.guid == g {
			return t.name
		}
	}
	for _, r := range roots {
		if r.guid == g {
			return "root-" + r.arch
		}
	}
	return g.String()
}

// ParseType is the inverse of [GUID.TypeName]. It takes names in lower case and
// GUIDs.
func ParseType(s string) (GUID, error) {
	for _, t := range typeNames {
		if t.name == s {
			return t.guid, nil
		}
	}
	if arch, ok := strings.CutPrefix(s, "root-"); ok && Root(arch) != Linux {
		return Root(arch), nil
	}
	if g, err := ParseGUID(s); err == nil {
		return g, nil
	}
	return GUID{}, fmt.Errorf("partition type %.80q is neither a known name nor a GUID", s)
}
