package iicp

import (
	"context"
	"errors"
	"sync"
)

// Directory is a directory inside this process, in memory. Any number of goroutines may use one.
type Directory struct {
	id    uint64
	url   string
	queue *queue
	close func() error
}

// LoopbackDirectory starts a directory for development on this machine: nothing is probed, limited or gated.
func LoopbackDirectory() (*Directory, error) { return NewDirectory(loopbackOptions()) }

// NewDirectory starts a directory.
func NewDirectory(opts DirectoryOptions) (*Directory, error) {
	text, err := options(opts)
	if err != nil {
		return nil, err
	}
	queue, err := newQueue("directory", nil)
	if err != nil {
		return nil, err
	}
	done, err := queue.call(context.Background(), func(tag uint64) (uint64, error) {
		return directoryBind(queue.id, text, tag)
	})
	var bound struct{ URL string }
	if err == nil {
		err = read(done.json, &bound)
	}
	if err != nil {
		queue.close()
		return nil, err
	}
	d := &Directory{id: done.handle, url: bound.URL, queue: queue}
	d.close = sync.OnceValue(d.stop)
	return d, nil
}

// URL is what clients and nodes take as their option Directory.
func (d *Directory) URL() string { return d.url }

// Close stops the directory; requests that run have a second to end. A second call does nothing.
func (d *Directory) Close() error { return d.close() }

func (d *Directory) stop() error {
	defer d.queue.close()
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	_, err := d.queue.call(ctx, func(tag uint64) (uint64, error) { return directoryClose(d.id, d.queue.id, tag) })
	if errors.Is(err, ErrTimeout) {
		return nil
	}
	return err
}
