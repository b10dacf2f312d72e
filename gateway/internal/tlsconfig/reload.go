// Need: operators, who rotate certificates without a restart.

package tlsconfig

import (
	"log/slog"
	"os"
	"slices"
	"sync"
)

// reloader holds a value that load builds from files, and reloads it when a file changes.
// If the new files can't be loaded, it keeps the last good value.
type reloader[T any] struct {
	files  []string
	load   func() (T, error)
	logger *slog.Logger

	mu        sync.Mutex
	value     T
	fileInfos []os.FileInfo // of files, taken before value was loaded
	lastError string        // why the current files can't be loaded; empty if value is up to date
}

// newReloader loads the value for the first time and returns any error. Later errors are only
// logged. Empty file names are ignored.
func newReloader[T any](logger *slog.Logger, load func() (T, error), files ...string) (*reloader[T], error) {
	r := &reloader[T]{load: load, logger: logger}
	r.files = slices.DeleteFunc(files, func(name string) bool { return name == "" })
	r.fileInfos, _ = statAll(r.files) // load returns the more precise error
	var err error
	if r.value, err = load(); err != nil {
		return nil, err
	}
	return r, nil
}

// get returns the value after reloading it if a file has changed.
func (r *reloader[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, err := statAll(r.files)
	if err == nil && slices.EqualFunc(before, r.fileInfos, isSameFile) {
		r.lastError = ""
		return r.value
	}
	var value T
	if err == nil {
		value, err = r.load()
	}
	if err != nil {
		// Retry in every call: new permissions change neither the size nor the time of a file.
		if err.Error() != r.lastError {
			r.lastError = err.Error()
			r.logger.Warn("can't load the changed TLS files; keeping the last good ones", "error", r.lastError)
		}
		return r.value
	}
	if after, err := statAll(r.files); err != nil || !slices.EqualFunc(before, after, isSameFile) {
		return r.value // The files changed during the load: the next call retries.
	}
	r.value, r.fileInfos, r.lastError = value, before, ""
	r.logger.Info("reloaded the TLS files", "files", r.files)
	return r.value
}

func statAll(files []string) (infos []os.FileInfo, err error) {
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// isSameFile reports whether a and b are the same unchanged file.
func isSameFile(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
