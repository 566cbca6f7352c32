//go:build !amd64

package host

// kvm opens the device: the small guest is written for amd64 alone.
func kvm() error {
	return device("KVM", "/dev/kvm", "sudo usermod -aG kvm $USER, then log in again; machines are emulated without")
}
