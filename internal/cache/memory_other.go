//go:build !unix

package cache

// reserve returns n zero bytes, and what gives them back.
func reserve(n int64) ([]byte, func() error, error) {
	return make([]byte, n), func() error { return nil }, nil
}
