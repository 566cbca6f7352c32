// Command bench measures what wolffia promises about speed, side by side with
// what it is compared to, and prints medians and ratios.
package main

func main() {}
