// Package e2e has the tests of the whole: the real binary on hosts that are network namespaces (package lab), with real
// files, mounts and foreign programs. They need Linux, root and the programs that they name, are skipped elsewhere, and fail
// instead when DNBD_REQUIRE=1.
package e2e
