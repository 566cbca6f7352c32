// Package tftp serves a folder by the Trivial File Transfer Protocol, as
// machines that boot from the network want it: read-only, revision 2 (RFC
// 1350), with the options blksize (RFC 2348), tsize and timeout (RFC 2349) and
// windowsize (RFC 7440), negotiated as in RFC 2347; modes octet and netascii.
//
//	root, err := os.OpenRoot("boot")
//	srv := tftp.NewServer(root, tftp.Options{})
//	err = srv.Serve(ctx, socket, dial)
//
// Clients are not trusted: nothing outside the folder is opened, by whatever
// name or link; nothing but regular files is; writing is refused; transfers are
// bounded in number, and each in memory and in how long it waits.
//
// The package opens no sockets of its own: it runs on whatever network its
// caller has. Deliberately absent: writing, mode mail, multicast (RFC 2090).
package tftp
