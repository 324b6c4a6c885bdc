// taskq v3 on Redis Streams. Acknowledged after the run; a reservation lasts five minutes.
package main

import (
	"context"
	"time"

	"github.com/go-redis/redis/v8"
	"github.com/vmihailenco/taskq/v3"
	"github.com/vmihailenco/taskq/v3/redisq"

	"ropeway.bench/rivals/program"
)

type producer struct {
	queue taskq.Queue
	task  *taskq.Task
}

func (p producer) Send(number int) error {
	return p.queue.Add(p.task.WithArgs(context.Background(), number, program.Padding))
}

func (p producer) SendLater(number int, delay time.Duration) error {
	message := p.task.WithArgs(context.Background(), number, program.Padding)
	message.Delay = delay
	return p.queue.Add(message)
}

func register(o program.Options, job func(int)) producer {
	options := &taskq.QueueOptions{
		Name:  "rival",
		Redis: redis.NewClient(&redis.Options{Addr: o.Address(), PoolSize: 60}),
		// All workers from the start: its tuner would find them in a minute or so.
		MinNumWorker: int32(o.Concurrency),
		MaxNumWorker: int32(o.Concurrency),
	}
	if o.Setting == "best" {
		options.ReservationSize = 100
	}
	task := taskq.RegisterTask(&taskq.TaskOptions{
		Name:    "job",
		Handler: func(number int, _ string) error { job(number); return nil },
	})
	return producer{redisq.NewFactory().RegisterQueue(options), task}
}

func main() {
	program.Run(
		func(o program.Options) (program.Producer, error) { return register(o, nil), nil },
		func(o program.Options, job func(int)) error {
			consumer := register(o, job).queue.Consumer()
			if err := consumer.Start(context.Background()); err != nil {
				return err
			}
			program.UntilStopped()
			return consumer.Stop()
		},
	)
}
