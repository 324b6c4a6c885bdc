// asynq. A running task has a lease of 30 s, which its server renews.
package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hibiken/asynq"

	"ropeway.bench/rivals/program"
)

// Ranks are queues here, strictly one before the other.
var queues = []string{"low", "middle", "high"}

type producer struct{ *asynq.Client }

func (p producer) send(number int, options ...asynq.Option) error {
	arguments, err := json.Marshal([]any{number, program.Padding})
	if err == nil {
		_, err = p.Enqueue(asynq.NewTask("job", arguments), options...)
	}
	return err
}

func (p producer) Send(number int) error { return p.send(number) }

func (p producer) SendLater(number int, delay time.Duration) error {
	return p.send(number, asynq.ProcessIn(delay))
}

func (p producer) SendRanked(number, rank int) error {
	return p.send(number, asynq.Queue(queues[rank]))
}

func main() {
	redis := func(o program.Options) asynq.RedisClientOpt {
		return asynq.RedisClientOpt{Addr: o.Address(), PoolSize: o.Concurrency + 60}
	}
	program.Run(
		func(o program.Options) (program.Producer, error) {
			return producer{asynq.NewClient(redis(o))}, nil
		},
		func(o program.Options, job func(int)) error {
			config := asynq.Config{Concurrency: o.Concurrency, LogLevel: asynq.WarnLevel}
			if o.Ranked {
				config.Queues = map[string]int{"high": 3, "middle": 2, "low": 1}
				config.StrictPriority = true
			}
			if o.Setting == "best" {
				config.TaskCheckInterval = 10 * time.Millisecond // of an idle worker; default 1 s
				config.DelayedTaskCheckInterval = 100 * time.Millisecond
			}
			run := func(_ context.Context, task *asynq.Task) error {
				var number int
				arguments := []any{&number, new(string)}
				if err := json.Unmarshal(task.Payload(), &arguments); err != nil {
					return err
				}
				job(number)
				return nil
			}
			return asynq.NewServer(redis(o), config).Run(asynq.HandlerFunc(run))
		},
	)
}
