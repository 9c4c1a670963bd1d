package server

import (
	"crypto/tls"
	"net"
	"testing"
)

func TestOperatorsWithoutCertificatesAreNotServed(t *testing.T) {
	for _, auth := range []tls.ClientAuthType{tls.NoClientCert, tls.RequestClientCert, tls.RequireAnyClientCert, tls.VerifyClientCertIfGiven} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &Server{}
		if err := s.ServeOperators(t.Context(), l, &tls.Config{ClientAuth: auth}); err == nil {
			t.Errorf("%v is taken", auth)
		}
		if l.Close() == nil {
			t.Errorf("%v: the listener was left open", auth)
		}
	}
}
