package oci

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Media types ("OCI Image Media Types"), and what Docker calls the same.
const (
	typeIndex       = "application/vnd.oci.image.index.v1+json"
	typeManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeConfig      = "application/vnd.oci.image.config.v1+json"
	typeLayer       = "application/vnd.oci.image.layer.v1.tar"
	dockerIndex     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest  = "application/vnd.docker.distribution.manifest.v2+json"
	dockerLayer     = "application/vnd.docker.image.rootfs.diff.tar"
	annotationRef   = "org.opencontainers.image.ref.name"
	annotationName  = "io.containerd.image.name"  // with which "docker load" names an image
	annotationAbout = "vnd.docker.reference.type" // of what is about an image, and none itself
)

// The bounds of what is read into memory.
const (
	maxDocument  = 4 << 20 // bytes of an index, a manifest or a configuration
	maxManifests = 4096    // images in all indexes together
	maxLayers    = 1024
	maxDepth     = 4 // indexes in indexes
)

// descriptor is how one document names another ("OCI Content Descriptors").
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *platform         `json:"platform,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

// index is an image index, or the index.json of a layout.
type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// configuration is an image's ("OCI Image Configuration").
type configuration struct {
	Created *time.Time `json:"created,omitempty"`
	platform
	Config Config `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []history `json:"history,omitempty"`
}

type history struct {
	Created   *time.Time `json:"created,omitempty"`
	CreatedBy string     `json:"created_by,omitempty"`
}

// Config is what an image says to whoever runs it as a container.
type Config struct {
	User       string            `json:"User,omitempty"`
	Env        []string          `json:"Env,omitempty"` // NAME=value
	Entrypoint []string          `json:"Entrypoint,omitempty"`
	Cmd        []string          `json:"Cmd,omitempty"`
	WorkingDir string            `json:"WorkingDir,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

func (d *descriptor) isIndex() bool { return d.MediaType == typeIndex || d.MediaType == dockerIndex }
func (d *descriptor) isManifest() bool {
	return d.MediaType == typeManifest || d.MediaType == dockerManifest
}

// image reports whether d is that of an image, not of something about one.
func (d *descriptor) image() bool {
	return d.isManifest() && d.ArtifactType == "" && d.Annotations[annotationAbout] == "" &&
		(d.Platform == nil || d.Platform.OS != "unknown")
}

// checkLayer refuses what is not a layer that package tarball could read.
func (d *descriptor) checkLayer() error {
	for _, t := range []string{typeLayer, dockerLayer} {
		switch {
		case d.MediaType == t, d.MediaType == t+"+gzip", d.MediaType == t+"+zstd", d.MediaType == t+".gzip", d.MediaType == t+".zstd":
			return nil
		}
	}
	return fmt.Errorf("a layer of the media type %.100q is not supported", d.MediaType)
}

// check refuses descriptors that could lead anywhere but to a blob.
func (d *descriptor) check() error {
	if d.Size < 0 {
		return fmt.Errorf("%.80s: a size of %d bytes is not possible", d.Digest, d.Size)
	}
	_, err := digestHex(d.Digest)
	return err
}

// digestHex gives a digest's 64 digits.
func digestHex(digest string) (string, error) {
	algorithm, digits, ok := strings.Cut(digest, ":")
	if !ok {
		return "", fmt.Errorf("%.80q is no digest", digest)
	}
	if algorithm != "sha256" {
		return "", fmt.Errorf("digests of the kind %.20q are not supported", algorithm)
	}
	if b, err := hex.DecodeString(digits); err != nil || len(b) != sha256.Size || strings.ToLower(digits) != digits {
		return "", fmt.Errorf("%.100q is no SHA-256 digest", digest)
	}
	return digits, nil
}

func digestOf(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// document reads the JSON b into v.
func document[T any](b []byte) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	return v, nil
}

// encode gives v as JSON, as all documents are written.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// verify reads the blob that d promises through r: at its end, its size and
// digest must be right.
func verify(r io.Reader, d descriptor) io.Reader {
	return &verifier{r: io.LimitReader(r, d.Size+1), d: d, h: sha256.New(), left: d.Size}
}

type verifier struct {
	r io.Reader
	d descriptor
	h interface {
		io.Writer
		Sum([]byte) []byte
	}
	left int64
}

var errDigest = errors.New("its content is not what its digest says: it is damaged")

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.h.Write(p[:n])
	v.left -= int64(n)
	switch {
	case v.left < 0:
		return n, fmt.Errorf("blob %s: it has more than the %d bytes that are said", v.d.Digest, v.d.Size)
	case err == io.EOF && v.left > 0:
		return n, fmt.Errorf("blob %s: it ends after %d of %d bytes: %w", v.d.Digest, v.d.Size-v.left, v.d.Size, io.ErrUnexpectedEOF)
	case err == io.EOF && fmt.Sprintf("sha256:%x", v.h.Sum(nil)) != v.d.Digest:
		return n, fmt.Errorf("blob %s: %w", v.d.Digest, errDigest)
	}
	return n, err
}
