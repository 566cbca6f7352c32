package tree

// Sparse is a [Content] that knows where its holes are, so that a writer need
// not read a terabyte of zeros to find a few blocks of data.
type Sparse interface {
	Content
	// Data lists what may be other than zeros, ascending, without overlaps,
	// within the size.
	Data() ([]Extent, error)
	// OpenAt opens the content for reading at any offset. ReadAt beyond the size
	// is io.EOF.
	OpenAt() (ReaderAtCloser, error)
}

// Extent is a part of a file, in bytes.
type Extent struct{ Off, Len int64 }
