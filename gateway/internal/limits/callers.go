// Need: limits by tenant and subject. Attacks: gateway-bodies-under-ten-spellings, gateway-watches-of-ten-users.

package limits

import (
	"container/list"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/headers"
)

const (
	// maxKnownFor is how long the gateway remembers a caller, unless the token expires earlier.
	maxKnownFor = time.Minute

	// maxKnown is how many credentials the gateway remembers. One takes about 300 bytes.
	maxKnown = 10_000

	// lookupTimeout is the timeout of a GetCaller, which needs no database.
	lookupTimeout = 5 * time.Second
)

// credentialHeaders are the headers that determine the tenant and the subject of a caller. The server
// rejects a call whose other headers contradict them.
var credentialHeaders = []string{"authorization", "x-tenant-id"}

// digest is a keyed hash of credentials. The gateway remembers it instead of the token.
type digest [sha256.Size]byte

// Callers identifies the callers of requests. It asks the server with GetCaller, and remembers the response.
type Callers struct {
	connection     func() *grpc.ClientConn
	trustedProxies []netip.Prefix
	hashKey        []byte
	lookups        *Semaphore // calls of GetCaller
	waiting        *Semaphore // requests that wait for them

	mu      sync.Mutex
	known   map[digest]*list.Element
	recent  list.List // of *knownCaller, the most recently used first
	pending map[digest]*lookup
}

type knownCaller struct {
	digest digest
	caller Caller
	until  time.Time
}

// lookup is a GetCaller that several requests wait for.
type lookup struct {
	done    chan struct{}
	caller  Caller
	err     error
	waiting int // the number of requests; guarded by Callers.mu
	cancel  context.CancelFunc
}

// NewCallers returns Callers for a server to which there are so many connections. connection returns the one to
// use for the next call.
func NewCallers(connections int, connection func() *grpc.ClientConn, trustedProxies []netip.Prefix) *Callers {
	key := make([]byte, sha256.Size)
	rand.Read(key) // never fails
	return &Callers{
		connection: connection, trustedProxies: trustedProxies, hashKey: key,
		lookups: newLookups(connections, 1), waiting: newLookups(connections, waitingPerLookup),
		known: map[digest]*list.Element{}, pending: map[digest]*lookup{},
	}
}

// Identity is the caller of one request, which may be unknown.
type Identity struct {
	Caller
	Forwarded   metadata.MD // the headers of the request that its calls forward
	callers     *Callers
	digest      digest
	credentials metadata.MD
}

// Identify returns the caller of a request if it is remembered. It makes no call.
func (c *Callers) Identify(r *http.Request) *Identity {
	id := &Identity{Forwarded: headers.Forwarded(r), callers: c, credentials: metadata.MD{}}
	hash := sha256.New()
	hash.Write(c.hashKey)
	for _, name := range credentialHeaders {
		value := r.Header.Get(name)
		hash.Write([]byte(normalCredential(value) + "\x00"))
		if value != "" {
			id.credentials.Set(name, value)
		}
	}
	for _, certificate := range headers.Certificates(r.Context()) {
		hash.Write([]byte(certificate)) // after two empty headers, which no other caller has
		id.credentials.Append(headers.CertificateKey, certificate)
	}
	hash.Sum(id.digest[:0])
	c.mu.Lock()
	known, ok := c.remembered(id.digest)
	c.mu.Unlock()
	if ok {
		id.Caller = known
	} else {
		id.Caller = Caller{Subject: ClientNetwork(r, c.trustedProxies)}
	}
	return id
}

// normalCredential returns the same text for all spellings of one bearer token that the server accepts: any case
// of the scheme, and any number of spaces after it. Otherwise one token could take all places of known callers.
func normalCredential(value string) string {
	scheme, token, _ := strings.Cut(value, " ")
	if strings.EqualFold(scheme, "Bearer") {
		return "Bearer " + strings.Trim(token, " ")
	}
	return value
}

// Learn asks the server who the caller is, unless it is known. It returns an error if the server rejects
// the caller's credentials. Requests with the same credentials share a call.
func (id *Identity) Learn(ctx context.Context) *apierror.Error {
	if id.Known() {
		return nil
	}
	c, address := id.callers, id.Caller
	if !c.waiting.TryAcquire(address, 1) {
		return c.waiting.overloaded()
	}
	defer c.waiting.Release(address, 1)
	l := c.lookUp(id)
	select {
	case <-l.done:
	case <-ctx.Done():
		c.leave(l, id.digest)
		return apierror.FromGRPC(ctx, status.FromContextError(ctx.Err()).Err())
	}
	if l.err != nil {
		return apierror.FromGRPC(ctx, l.err)
	}
	id.Caller = l.caller
	return nil
}

// lookUp starts a lookup or returns a pending one. If the caller is remembered, it returns a lookup that is done.
func (c *Callers) lookUp(id *Identity) *lookup {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &lookup{done: make(chan struct{})}
	if known, ok := c.remembered(id.digest); ok {
		l.caller = known
		close(l.done)
		return l
	}
	if pending := c.pending[id.digest]; pending != nil {
		pending.waiting++
		return pending
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	l.waiting, l.cancel = 1, cancel
	c.pending[id.digest] = l
	address, digest, credentials := id.Caller, id.digest, id.credentials
	go func() {
		defer cancel()
		var until time.Time
		l.caller, until, l.err = c.ask(ctx, address, credentials)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.pending[digest] == l { // otherwise all requests have left
			delete(c.pending, digest)
			if l.err == nil {
				c.remember(&knownCaller{digest, l.caller, until})
			}
		}
		close(l.done)
	}()
	return l
}

// leave is called when a request stops waiting for a lookup. It cancels the lookup if no other request waits:
// otherwise clients that disconnect at once would leave lookups behind, which no limit counts.
func (c *Callers) leave(l *lookup, d digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.waiting--; l.waiting == 0 && c.pending[d] == l {
		delete(c.pending, d)
		l.cancel()
	}
}

// ask calls GetCaller.
func (c *Callers) ask(ctx context.Context, address Caller, credentials metadata.MD) (Caller, time.Time, error) {
	if !c.lookups.Acquire(ctx, address, 1) {
		return Caller{}, time.Time{}, c.lookups.overloaded()
	}
	defer c.lookups.Release(address, 1)
	asked := time.Now()
	client := jobsv1.NewJobServiceClient(c.connection())
	response, err := client.GetCaller(metadata.NewOutgoingContext(ctx, credentials), &jobsv1.GetCallerRequest{})
	if ctx.Err() != nil {
		err = status.Error(codes.Unavailable, "GetCaller took too long")
	}
	if err != nil {
		return Caller{}, time.Time{}, err
	}
	known, until := Caller{Tenant: response.TenantId}, asked.Add(maxKnownFor)
	if expiry := response.CredentialExpiresAt; expiry != nil {
		known.Subject = subject(response)
		if expiry.AsTime().Before(until) {
			until = expiry.AsTime()
		}
	}
	return known, until, nil
}

// subject returns the user or the device of a token. Without a token, the caller can name any user.
func subject(response *jobsv1.GetCallerResponse) string {
	switch {
	case response.UserId != nil:
		return "user " + *response.UserId
	case response.DeviceId != nil:
		return "device " + *response.DeviceId
	}
	return ""
}

// remembered returns the caller with these credentials. It requires c.mu.
func (c *Callers) remembered(d digest) (Caller, bool) {
	element := c.known[d]
	if element == nil {
		return Caller{}, false
	}
	entry := element.Value.(*knownCaller)
	if !time.Now().Before(entry.until) {
		c.forget(element)
		return Caller{}, false
	}
	c.recent.MoveToFront(element)
	return entry.caller, true
}

// remember requires c.mu.
func (c *Callers) remember(entry *knownCaller) {
	c.known[entry.digest] = c.recent.PushFront(entry)
	if c.recent.Len() > maxKnown {
		c.forget(c.recent.Back())
	}
}

// forget requires c.mu.
func (c *Callers) forget(element *list.Element) {
	c.recent.Remove(element)
	delete(c.known, element.Value.(*knownCaller).digest)
}
