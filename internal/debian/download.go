package debian

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
)

// DigestError says that a file is not the one that the index speaks of.
type DigestError struct {
	URL string
	Why string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("check %s: %s; %s", redact(e.URL), e.Why, e.Fix())
}

// Fix says what to do about it.
func (e *DigestError) Fix() string {
	return "nothing of it was kept: run it again with --update, or try another mirror with --mirror"
}

// want says what a download must be.
type want struct {
	uri  string
	size int64
	sum  [32]byte
	note string // what to do when the mirror does not have it
}

// download brings the file f to be what w says: it continues what f holds
// already, and leaves f as far as it came when it is interrupted. What turns
// out to be wrong is truncated away.
func (f *fetcher) download(ctx context.Context, file *os.File, w want, count func(int64)) error {
	d := &downloading{f: f, file: file, want: w, count: count}
	err := f.repeat(ctx, w.uri, func() error { return d.try(ctx) })
	if errors.As(err, new(*DigestError)) && d.resumed {
		// What was there before may have been the wrong part: once from the start.
		if err := d.restart(); err != nil {
			return err
		}
		d.resumed = false
		err = f.repeat(ctx, w.uri, func() error { return d.try(ctx) })
	}
	var status *StatusError
	switch {
	case errors.As(err, &status) && isAbsent(err):
		status.Remedy = w.note
	case isAbsent(err):
		err = fmt.Errorf("%w; %s", err, w.note)
	}
	if errors.As(err, new(*DigestError)) {
		if terr := d.restart(); terr != nil {
			return terr
		}
	}
	return err
}

// downloading is one file on its way.
type downloading struct {
	f       *fetcher
	file    *os.File
	want    want
	count   func(int64)
	hash    hash.Hash // of the first have bytes of the file
	have    int64
	counted int64 // how much of have the progress knows
	resumed bool  // some of it is from an earlier request
}

func (d *downloading) wrong(format string, args ...any) error {
	return &DigestError{URL: d.want.uri, Why: fmt.Sprintf(format, args...)}
}

// restart forgets what came so far.
func (d *downloading) restart() error {
	d.hash, d.have = sha256.New(), 0
	if err := d.file.Truncate(0); err != nil {
		return err
	}
	_, err := d.file.Seek(0, io.SeekStart)
	return err
}

// rehash reads what the file holds already.
func (d *downloading) rehash() error {
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	d.hash = sha256.New()
	n, err := io.Copy(d.hash, io.LimitReader(d.file, d.want.size+1))
	if err != nil {
		return err
	}
	d.have = n
	if n > d.want.size {
		return d.restart()
	}
	d.progress()
	return nil
}

func (d *downloading) progress() {
	if d.have > d.counted {
		d.count(d.have - d.counted)
		d.counted = d.have
	}
}

// try makes one request for what is missing.
func (d *downloading) try(ctx context.Context) error {
	if err := d.rehash(); err != nil {
		return err
	}
	if d.have > 0 {
		d.resumed = true
	}
	if d.have == d.want.size {
		return d.finish()
	}
	header := http.Header{}
	if d.have > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(d.have, 10)+"-")
	}
	a, err := d.f.open(ctx, d.want.uri, header)
	var status *StatusError
	if errors.As(err, &status) && status.Code == http.StatusRequestedRangeNotSatisfiable {
		return d.wrong("the mirror has fewer than %d bytes of it, the index says %d", d.have, d.want.size)
	}
	if err != nil {
		return err
	}
	defer a.body.Close()
	if err := d.align(a); err != nil {
		return err
	}
	if a.length >= 0 && a.length != d.want.size-d.have {
		return d.wrong("the mirror announces %d bytes, the index says %d", d.have+a.length, d.want.size)
	}
	if err := d.copy(a.body); err != nil {
		return err
	}
	return d.finish()
}

// align goes to where the answer begins: its start when the mirror ignored the
// range, or there was none.
func (d *downloading) align(a *answer) error {
	switch start, ok := rangeStart(a.header); {
	case a.code == http.StatusOK:
		d.resumed = false
		return d.restart()
	case a.code == http.StatusPartialContent && ok && start == d.have && d.have > 0:
		_, err := d.file.Seek(d.have, io.SeekStart)
		return err
	}
	return d.wrong("the mirror sent another part of it than was asked for (%d, %q)", a.code, a.header.Get("Content-Range"))
}

// copy takes no more than the index says, however much is sent.
func (d *downloading) copy(body io.Reader) error {
	buf := make([]byte, 128<<10)
	for {
		n, err := body.Read(buf)
		if over := d.have + int64(n) - d.want.size; over > 0 {
			return d.wrong("the mirror sends more than the %d bytes that the index says", d.want.size)
		}
		if n > 0 {
			if _, werr := d.file.Write(buf[:n]); werr != nil {
				return werr
			}
			d.hash.Write(buf[:n])
			d.have += int64(n)
			d.progress()
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if d.have < d.want.size {
		return &NetworkError{URL: d.want.uri, Err: fmt.Errorf("it ended after %d of %d bytes: %w", d.have, d.want.size, io.ErrUnexpectedEOF)}
	}
	return nil
}

func (d *downloading) finish() error {
	if sum := [32]byte(d.hash.Sum(nil)); sum != d.want.sum {
		return d.wrong("its SHA-256 is %x, the index says %x", sum, d.want.sum)
	}
	return nil
}
