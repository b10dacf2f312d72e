// Need: the limit of calls, which follows the server's limits of streams and of calls of a tenant.

package limits

// StreamsPerConnection is the maximum number of concurrent calls on a connection: a quarter of the
// server's default, because the server also counts calls that have just ended. gRPC would queue
// further calls without a limit and without an error.
const StreamsPerConnection = 100

// The maximum numbers of concurrent calls of one tenant and of one subject on a connection. The server
// accepts the calls of a connection one after another, so the calls of other callers wait behind them.
// With the default number of connections, one tenant can have as many calls in flight as the server
// accepts from a tenant, and one subject half as many.
const (
	TenantStreamsPerConnection  = 24
	SubjectStreamsPerConnection = 12
)

// NewCalls returns the limit of concurrent calls for this number of connections.
func NewCalls(connections int) *Semaphore {
	count := int64(connections)
	return NewSemaphore(count*StreamsPerConnection, Shares{
		tenant: count * TenantStreamsPerConnection, subject: count * SubjectStreamsPerConnection,
		unknown: count * StreamsPerConnection / 4, address: count * SubjectStreamsPerConnection,
	}).withSetting("upstream-connections", count)
}

// waitingPerLookup is how many requests may wait for each lookup that is possible at a time.
const waitingPerLookup = 10

// newLookups returns a limit of factor times the number of concurrent lookups. These use at most a quarter of the
// streams, which the calls of requests leave free.
func newLookups(connections, factor int) *Semaphore {
	size := int64(connections * StreamsPerConnection / 4 * factor)
	shares := Shares{unknown: size, address: max(size/2, 1)}
	return NewSemaphore(size, shares).withSetting("upstream-connections", int64(connections))
}
