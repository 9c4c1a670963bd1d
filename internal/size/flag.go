package size

// Bytes is an amount of bytes as the value of a flag, read by Parse. It implements pflag.Value.
type Bytes int64

// String implements pflag.Value.
func (b *Bytes) String() string { return Format(int64(*b)) }

// Set implements pflag.Value.
func (b *Bytes) Set(s string) error {
	n, err := Parse(s)
	if err == nil {
		*b = Bytes(n)
	}
	return err
}

// Type implements pflag.Value.
func (*Bytes) Type() string { return "size" }

// Rate is a rate in bits per second as the value of a flag, read by ParseRate. It implements pflag.Value.
type Rate int64

// String implements pflag.Value.
func (r *Rate) String() string { return FormatRate(int64(*r)) }

// Set implements pflag.Value.
func (r *Rate) Set(s string) error {
	n, err := ParseRate(s)
	if err == nil {
		*r = Rate(n)
	}
	return err
}

// Type implements pflag.Value.
func (*Rate) Type() string { return "rate" }
