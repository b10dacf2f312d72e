// Need: the limit max-connections. Attack: gateway-slow-headers.

package server

import (
	"container/list"
	"log/slog"
	"net"
	"net/http"
	"sync"
)

// connectionLimit limits the client connections. If too many are open, it closes the one that has been without a
// request for the longest time, or the new one if all have requests.
type connectionLimit struct {
	maximum int64
	logger  *slog.Logger

	mu     sync.Mutex
	open   map[net.Conn]*list.Element // nil: it has a request
	idle   list.List                  // of net.Conn; also those that have not sent all headers of their first request
	closed int64
}

func newConnectionLimit(maximum int64, logger *slog.Logger) *connectionLimit {
	return &connectionLimit{maximum: maximum, logger: logger, open: map[net.Conn]*list.Element{}}
}

// update is the function http.Server.ConnState.
func (l *connectionLimit) update(connection net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	idle, isOpen := l.open[connection]
	if !isOpen && state != http.StateNew {
		return // it is being closed
	}
	if idle != nil {
		l.idle.Remove(idle)
	}
	switch state {
	case http.StateNew:
		if int64(len(l.open)) >= l.maximum && !l.closeOne(connection) {
			return
		}
		l.open[connection] = l.idle.PushBack(connection)
	case http.StateIdle:
		l.open[connection] = l.idle.PushBack(connection)
	case http.StateActive:
		liftHandshakeLimit(connection)
		l.open[connection] = nil
	case http.StateHijacked, http.StateClosed:
		delete(l.open, connection)
	}
}

// closeOne closes a connection without a request, or the new one and returns false. It requires l.mu.
func (l *connectionLimit) closeOne(added net.Conn) bool {
	first := l.idle.Front()
	if first == nil {
		added.Close() // at once: net/http would serve it
	} else {
		closed := l.idle.Remove(first).(net.Conn)
		delete(l.open, closed)
		go closed.Close() // TLS waits until it has sent a close_notify
	}
	l.closed++
	if l.closed&(l.closed-1) == 0 { // 1, 2, 4, 8 …: a flood must not fill the log
		l.logger.Warn("connection closed: max-connections are open", "max_connections", l.maximum, "closed", l.closed)
	}
	return first != nil
}
