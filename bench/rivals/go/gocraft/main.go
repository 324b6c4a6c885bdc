// gocraft/work. A running job is in its pool's list; a reaper gives a dead pool's jobs back.
package main

import (
	"time"

	"github.com/gocraft/work"
	"github.com/gomodule/redigo/redis"

	"ropeway.bench/rivals/program"
)

// Ranks are names of jobs here: each has a list of its own, and lists are drawn by weight.
var names = []string{"job", "job1", "job2"}

type producer struct{ *work.Enqueuer }

func arguments(number int) work.Q { return work.Q{"n": number, "p": program.Padding} }

func (p producer) Send(number int) error {
	_, err := p.Enqueue("job", arguments(number))
	return err
}

func (p producer) SendLater(number int, delay time.Duration) error {
	_, err := p.EnqueueIn("job", int64(delay.Seconds()), arguments(number))
	return err
}

func (p producer) SendRanked(number, rank int) error {
	_, err := p.Enqueue(names[rank], arguments(number))
	return err
}

func pool(o program.Options) *redis.Pool {
	return &redis.Pool{
		MaxActive: 120, MaxIdle: 120, Wait: true,
		Dial: func() (redis.Conn, error) { return redis.Dial("tcp", o.Address()) },
	}
}

type context struct{}

func main() {
	program.Run(
		func(o program.Options) (program.Producer, error) {
			return producer{work.NewEnqueuer("rival", pool(o))}, nil
		},
		func(o program.Options, job func(int)) error {
			workers := work.NewWorkerPool(context{}, uint(o.Concurrency), "rival", pool(o))
			run := func(j *work.Job) error { job(int(j.ArgInt64("n"))); return j.ArgError() }
			workers.Job("job", run)
			if o.Ranked {
				workers.JobWithOptions("job1", work.JobOptions{Priority: 10}, run)
				workers.JobWithOptions("job2", work.JobOptions{Priority: 100}, run)
			}
			workers.Start()
			program.UntilStopped()
			workers.Stop()
			return nil
		},
	)
}
