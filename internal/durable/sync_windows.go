package durable

// SyncDir has nothing to do: NTFS keeps names in its journal, and directories cannot be opened to be written.
func SyncDir(dir string) error { return nil }
