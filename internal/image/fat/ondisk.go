package fat

import (
	"encoding/binary"
	"time"
)

var le = binary.LittleEndian

// bootSector is the BIOS parameter block (section 3 of the specification), the
// part that all kinds share.
type bootSector struct {
	Jump              [3]byte
	OEM               [8]byte
	BytesPerSector    uint16 // 11
	SectorsPerCluster uint8
	Reserved          uint16 // sectors before the first FAT
	FATs              uint8
	RootEntries       uint16 // 17; 0: FAT32
	Sectors16         uint16 // 0: see Sectors32
	Media             uint8
	FATSectors16      uint16 // 22; 0: FAT32
	SectorsPerTrack   uint16
	Heads             uint16
	Hidden            uint32 // sectors before the file system
	Sectors32         uint32 // 32
}

// fat32Part follows bootSector in a FAT32 (3.3).
type fat32Part struct {
	FATSectors32 uint32 // 36
	ExtFlags     uint16 // bit 7: only the FAT of bits 0 to 3 is in use
	Version      uint16
	RootCluster  uint32 // 44
	FSInfo       uint16 // its sector
	Backup       uint16 // sector of the boot sector's copy
	_            [12]byte
}

// idPart follows either: at 36, or at 64 in a FAT32 (3.2).
type idPart struct {
	Drive     uint8
	State     uint8 // bit 0: Linux has it mounted
	Signature uint8 // 0x29: the rest is there
	Serial    uint32
	Label     [11]byte
	Kind      [8]byte // for people
}

const (
	bootPartSize   = 36
	fat32PartSize  = 28
	idPartSize     = 26
	extSignature   = 0x29
	media          = 0xF8 // a disk that is not removed
	fsInfoSector   = 1
	backupSector   = 6
	reserved32     = 32 // sectors of a FAT32 before its first FAT
	fsInfoSize     = 512
	fsInfoLead     = 0x41615252
	fsInfoStruct   = 0x61417272
	fsInfoFree     = 488 // where the count of free clusters lies
	fsInfoNext     = 492
	bootSignature  = 0xAA55
	firstCluster   = 2
	direntSize     = 32
	maxDirectory   = 65536 * direntSize
	rootEntries    = 512 // of FAT12 and FAT16, at least
	maxRootEntries = 65536 - sectorSize/direntSize
)

// Attributes of a dirent (6.2).
const (
	attrReadOnly  = 0x01
	attrSystem    = 0x04
	attrVolume    = 0x08
	attrDirectory = 0x10
	attrArchive   = 0x20
	attrLong      = 0x0F
	attrLongMask  = 0x3F
)

// dirent is an entry of a directory (section 6).
type dirent struct {
	Name         shortName
	Attributes   uint8
	Case         uint8 // Windows NT's, see lowerBase
	CreatedTenth uint8 // hundredths of a second, up to 199
	CreatedTime  uint16
	CreatedDate  uint16
	AccessDate   uint16
	FirstHi      uint16 // of the first cluster
	WriteTime    uint16
	WriteDate    uint16
	FirstLo      uint16
	Size         uint32
}

// longDirent has thirteen units of a long name (section 7).
type longDirent struct {
	Order      uint8
	Name1      [5]uint16
	Attributes uint8 // attrLong
	Type       uint8
	Checksum   uint8
	Name2      [6]uint16
	_          uint16
	Name3      [2]uint16
}

const (
	longUnits = 13
	lastLong  = 0x40 // in Order of the entry that comes first and ends the name
)

// The ends of what a time can be.
var (
	minTime = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	maxTime = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
)

// stamp packs a time. Hundredths are those over the even second.
func stamp(t time.Time) (date, clock uint16, hundredths uint8) {
	t = t.UTC()
	if t.Before(minTime) {
		t = minTime
	}
	if t.After(maxTime) {
		t = maxTime
	}
	date = uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day())
	clock = uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
	return date, clock, uint8(t.Second()%2*100 + t.Nanosecond()/10e6)
}

// unstamp is a time that was packed. Fields out of range count on, as in
// [time.Date]; no date at all is the first there is.
func unstamp(date, clock uint16) time.Time {
	if date == 0 {
		return minTime
	}
	return time.Date(1980+int(date>>9), time.Month(date>>5&15), int(date&31),
		int(clock>>11), int(clock>>5&63), int(clock&31)*2, 0, time.UTC)
}
