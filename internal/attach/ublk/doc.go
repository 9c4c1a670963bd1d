// Package ublk attaches devices as block devices with Linux' ublk driver, and a symbolic link with the name that the user wants.
// It needs root.
//
// # Survival
//
// The block device outlives its process: when that is killed requests wait. Options.Resume gives the device to the next process,
// which carries them out; detaching it fails them.
//
// Each attachment has a claim, a directory with a lock that dies with its process, and in it a number drawn at random that the
// kernel keeps with the block device. By this number the next process finds what is left, whatever the block device is called and
// whichever step its process had got to.
//
// # Sizes
//
// A block device has whole sectors of 512 bytes. The device of an image that has not is larger than the image, up to the next
// multiple of 4096 bytes; what is beyond the image's end reads as zeroes, and takes no others.
package ublk
