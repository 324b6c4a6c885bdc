// Faktory with its Go worker. A job is reserved for half an hour.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/contribsys/faktory/client"
	worker "github.com/contribsys/faktory_worker_go"

	"ropeway.bench/rivals/program"
)

// Ranks are queues here, strictly one before the other.
var queues = []string{"low", "middle", "high"}

type producer struct{ *client.Pool }

func job(number int) *client.Job { return client.NewJob("job", number, program.Padding) }

func (p producer) push(job *client.Job) error {
	return p.With(func(c *client.Client) error { return c.Push(job) })
}

func (p producer) Send(number int) error { return p.push(job(number)) }

func (p producer) SendLater(number int, delay time.Duration) error {
	j := job(number)
	j.At = time.Now().UTC().Add(delay).Format(time.RFC3339Nano)
	return p.push(j)
}

func (p producer) SendRanked(number, rank int) error {
	j := job(number)
	j.Queue = queues[rank]
	return p.push(j)
}

func (p producer) SendMany(numbers []int) error {
	jobs := make([]*client.Job, len(numbers))
	for i, number := range numbers {
		jobs[i] = job(number)
	}
	return p.With(func(c *client.Client) error {
		refused, err := c.PushBulk(jobs)
		if err == nil && len(refused) > 0 {
			err = fmt.Errorf("%d jobs refused", len(refused))
		}
		return err
	})
}

func main() {
	program.Run(
		func(o program.Options) (program.Producer, error) {
			_ = os.Setenv("FAKTORY_URL", o.URL)
			pool, err := client.NewPool(o.Callers)
			return producer{pool}, err
		},
		func(o program.Options, run func(int)) error {
			_ = os.Setenv("FAKTORY_URL", o.URL)
			manager := worker.NewManager()
			manager.Concurrency = o.Concurrency
			manager.Register("job", func(_ context.Context, arguments ...any) error {
				run(int(arguments[0].(float64)))
				return nil
			})
			manager.ProcessStrictPriorityQueues("default")
			if o.Ranked {
				manager.ProcessStrictPriorityQueues("high", "middle", "low")
			}
			return manager.Run()
		},
	)
}
