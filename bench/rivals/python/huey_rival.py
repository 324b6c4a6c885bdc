"""Huey on Redis, threads or, in the setting `best`, greenlets. A task is removed when taken."""

import program

o = program.options()
if o.setting == "best" and o.command == "work":
    from gevent import monkey

    monkey.patch_all()

from huey import PriorityRedisHuey, RedisHuey

huey = (PriorityRedisHuey if o.ranked else RedisHuey)("rival", url=o.url)
body = program.plain_body(o)


@huey.task(name="job")
def job(number, padding):
    body(number)


class Client(program.Client):
    def send(self, number):
        job(number, program.PADDING)

    def send_later(self, number, delay_s):
        job.schedule(args=(number, program.PADDING), delay=delay_s)

    def send_ranked(self, number, rank):
        huey.enqueue(job.s(number, program.PADDING, priority=rank))


if __name__ == "__main__":
    from huey_rival import Client  # a task is known by its module, which is not "__main__"

    if o.command == "work":
        kind = "greenlet" if o.setting == "best" else "thread"
        command = ("huey.bin.huey_consumer", "huey_rival.huey", "-q", "-k", kind)
        program.become(o, *command, "-w", str(o.concurrency))
    program.enqueue(o, Client())
