package boot

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/pin/tftp/v3"
)

const (
	// maxTransfers is how many machines are sent files over TFTP at once; others are told to come again.
	maxTransfers = 256
	// tftpTimeout is how long an acknowledgement may take, tftpRetries how often a block is sent.
	tftpTimeout = time.Second
	tftpRetries = 6
)

// serveTFTP answers requests until the context ends.
func (s *Server) serveTFTP(ctx context.Context) error {
	defer s.tftp.Close() // the library does it only when it was told to stop after it began
	slots := make(chan struct{}, maxTransfers)
	server := tftp.NewServer(func(name string, to io.ReaderFrom) error {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			return errors.New("too many machines are served: try again")
		}
		return s.transfer(ctx, name, to)
	}, nil)
	server.SetTimeout(tftpTimeout)
	server.SetRetries(tftpRetries)
	server.SetBackoff(func(int) time.Duration { return 0 })
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		server.Shutdown()
	})
	err := server.Serve(s.tftp)
	if !stop() {
		<-done
	}
	server.Shutdown() // for transfers that began meanwhile
	return err
}

// transfer sends one file. The error goes to the machine that asked.
func (s *Server) transfer(ctx context.Context, name string, to io.ReaderFrom) error {
	out := to.(tftp.OutgoingTransfer) // as the library promises
	remote := out.RemoteAddr()
	f, _, err := s.files.open(name)
	if err != nil {
		s.refused("TFTP", remote.String(), err)
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("there is no such file here")
		}
		return errors.New("the file cannot be read")
	}
	defer f.Close()
	s.log.Info("sending", "file", name, "to", remote.String(), "by", "TFTP")
	if _, err := to.ReadFrom(until{ctx, f}); err != nil {
		// Firmware asks for a file's size first and then goes away, so it is no fault.
		s.log.Debug("not sent", "file", name, "to", remote.String(), "error", err)
	}
	return nil
}

// until reads until the context ends. The library finds the size of a file by seeking.
type until struct {
	ctx context.Context
	io.ReadSeeker
}

func (u until) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.ReadSeeker.Read(p)
}
