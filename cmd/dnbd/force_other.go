//go:build !linux

package main

import "context"

// forceDetach is detach: there is no driver here whose devices can be taken away by force.
func forceDetach(ctx context.Context, device string) error { return detach(ctx, device) }
