package main

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
)

// reloading is what is made of files, made anew once they have changed.
type reloading[T any] struct {
	files  []string
	read   func() (T, error)
	logger *slog.Logger

	mu    sync.Mutex
	last  T
	state []os.FileInfo // of the files, before last was read
	wrong string        // with the files of now, if last is not theirs
}

// newReloading reads the files, of which those without a name are left out. Its error is
// that of a start; later ones are logged.
func newReloading[T any](logger *slog.Logger, read func() (T, error), files ...string) (*reloading[T], error) {
	r := &reloading[T]{read: read, logger: logger}
	r.files = slices.DeleteFunc(files, func(name string) bool { return name == "" })
	r.state, _ = stat(r.files) // read says better what is wrong
	var err error
	if r.last, err = read(); err != nil {
		return nil, err
	}
	return r, nil
}

// get looks at the files; the last good ones stay if the new are not usable.
func (r *reloading[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	state, err := stat(r.files)
	if err == nil && slices.EqualFunc(state, r.state, same) {
		r.wrong = ""
		return r.last
	}
	var read T
	if err == nil {
		read, err = r.read()
	}
	if err != nil {
		// Until they are usable they are read each time: new permissions don't show in their state.
		if err.Error() != r.wrong {
			r.wrong = err.Error()
			r.logger.Warn("the new TLS files are not usable, the old ones stay", "error", r.wrong)
		}
		return r.last
	}
	if after, err := stat(r.files); err != nil || !slices.EqualFunc(state, after, same) {
		return r.last // Written meanwhile: the next handshake looks again.
	}
	r.last, r.state, r.wrong = read, state, ""
	r.logger.Info("the TLS files have changed and were read again", "files", r.files)
	return r.last
}

func stat(files []string) ([]os.FileInfo, error) {
	state := make([]os.FileInfo, len(files))
	for i, name := range files {
		var err error
		if state[i], err = os.Stat(name); err != nil {
			return nil, err
		}
	}
	return state, nil
}

func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func readCertificates(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + file)
	}
	return pool, nil
}
