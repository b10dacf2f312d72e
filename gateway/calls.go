package main

// streamsPerConnection is the maximum number of concurrent calls on a connection: a quarter of the
// server's default, because the server also counts calls that have just ended. gRPC would queue
// further calls without a limit and without an error.
const streamsPerConnection = 100

// The maximum numbers of concurrent calls of one tenant and of one subject on a connection. The server
// accepts the calls of a connection one after another, so the calls of other callers wait behind them.
// With the default number of connections, one tenant can have as many calls in flight as the server
// accepts from a tenant, and one subject half as many.
const (
	tenantStreamsPerConnection  = 24
	subjectStreamsPerConnection = 12
)

// newCalls returns the limit of concurrent calls on so many connections.
func newCalls(connections int) *fairSemaphore {
	count := int64(connections)
	return newFairSemaphore(count*streamsPerConnection, shares{
		tenant: count * tenantStreamsPerConnection, subject: count * subjectStreamsPerConnection,
		unknown: count * streamsPerConnection / 4, address: count * subjectStreamsPerConnection,
	})
}

// newLookups returns the limit of concurrent lookups. The calls of requests leave these streams free.
func newLookups(connections int) *fairSemaphore {
	size := int64(connections * streamsPerConnection / 4)
	return newFairSemaphore(size, shares{unknown: size, address: max(size/2, 1)})
}
