// Need: clients with TLS. Attack: many clients begin handshakes with a certificate of 256 KiB, which crypto/tls buffers.

package server

import (
	"errors"
	"math"
	"net"
	"sync/atomic"
)

// maxFirstBytes is the maximum size of the TLS handshake and the headers of the first request.
const maxFirstBytes = 64 << 10

// handshakeLimitListener limits the bytes that its connections receive before their first request.
type handshakeLimitListener struct{ net.Listener }

func (l handshakeLimitListener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	connection := &handshakeLimitConn{Conn: accepted}
	connection.remaining.Store(maxFirstBytes)
	return connection, nil
}

type handshakeLimitConn struct {
	net.Conn
	remaining atomic.Int64
}

func (c *handshakeLimitConn) Read(b []byte) (int, error) {
	if c.remaining.Load() <= 0 {
		return 0, errors.New("too many bytes before the first request")
	}
	n, err := c.Conn.Read(b)
	c.remaining.Add(-int64(n))
	return n, err
}

// liftHandshakeLimit lets a connection, in the form of ConnState, receive any number of bytes.
func liftHandshakeLimit(connection net.Conn) {
	if wrapper, ok := connection.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		if limited, ok := wrapper.NetConn().(*handshakeLimitConn); ok {
			limited.remaining.Store(math.MaxInt64)
		}
	}
}
