"""The words of the int64 array that a team's threads share.

Those that different threads write lie on different cache lines. The protocol:

- EPOCH counts runs. A worker spins on it, and when it changes, executes TASK.
- GATE says who may touch what: bit t is set while worker t is asleep, RUNNING while a run goes on.
  A worker may fall asleep only by swapping its bit into a GATE without RUNNING; a run may start
  only by swapping a GATE of 0 (nobody asleep) for RUNNING. So no wake-up can be lost, and nothing
  is left half done if the caller is interrupted between waking the workers and starting the run.
- ARRIVED counts arrivals at barriers and never goes back, so a barrier is "wait until it reaches
  what it will be when all have come".
"""

EPOCH, GATE, ARRIVED, TASK = 0, 16, 32, 48
KERNELS, ARGS, COUNT, WIDTH, BASE = TASK, TASK + 1, TASK + 2, TASK + 3, TASK + 4
STOP, YIELD = TASK + 5, TASK + 6
STATE_WORDS = 64
RUNNING = 1 << 62
STOPPED = -1
