"""RQ. A worker process a slot, which forks for each job or, in the settings `simple`, does not."""

from datetime import timedelta

import program
from redis import Redis
from rq import Queue

o = program.options()
body = program.plain_body(o)


def job(number, padding):
    body(number)


class Client(program.Client):
    def __init__(self):
        redis = Redis.from_url(o.url)
        self.queues = [Queue(name, connection=redis) for name in ("low", "default", "high")]
        self.queue = self.queues[1]

    def send(self, number):
        self.queue.enqueue("rq_rival.job", number, program.PADDING)

    def send_many(self, numbers):
        prepare = Queue.prepare_data
        self.queue.enqueue_many(
            [prepare("rq_rival.job", args=(number, program.PADDING)) for number in numbers]
        )

    def send_later(self, number, delay_s):
        delay = timedelta(seconds=delay_s)
        self.queue.enqueue_in(delay, "rq_rival.job", number, program.PADDING)

    def send_ranked(self, number, rank):
        self.queues[rank].enqueue("rq_rival.job", number, program.PADDING)


if __name__ == "__main__":
    if o.command == "work":
        kind = "rq.worker.Worker" if o.setting == "fork" else "rq.worker.SimpleWorker"
        queues = ("high", "default", "low") if o.ranked else ("default",)
        common = ("--url", o.url, "-w", kind, "-q", *queues)
        if o.setting == "scheduler":
            program.become(o, "rq.cli", "worker", "--with-scheduler", *common)
        program.become(o, "rq.cli", "worker-pool", "-n", str(o.concurrency), *common)
    program.enqueue(o, Client())
