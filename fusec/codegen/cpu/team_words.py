"""The words of the int64 array that a team's threads share.

Those that different threads write lie on different cache lines. The protocol:

- Launches are numbered from 1 through all runs. A launch is cut into PARTS, and CLAIM of a part
  holds the number of the last launch whose part somebody took: it is taken by swapping a smaller
  number for the launch's own. A thread takes its own part first, and those of others where they
  are late; so nobody waits for a thread that is not executing something.
- ARRIVED counts parts executed and never goes back, so a barrier is "wait until it reaches what it
  will be when all are done", and a thread that comes late runs through what the others have done.
- EPOCH changes when a run begins, and is odd while TASK, what to run, is being written. A worker
  may see an old TASK: all of its parts are taken, and it takes none.
- A thread that has waited for long sleeps: at LAUNCH_BELL inside a run, at RUN_BELL between runs,
  and at once at BENCH_BELL while runs have fewer parts than it would need to have one.
  It adds itself to the bell's sleepers, notes the bell's count, looks once more whether what it
  waits for has come, and sleeps while the count is what it noted. Whoever makes something come
  that others may sleep for looks at the sleepers behind it, and rings if there are any.
"""

LINE = 16  # words: two cache lines, which some CPUs fetch together
EPOCH, ARRIVED, TASK, SYSTEM = 0, LINE, 2 * LINE, 3 * LINE
LAUNCH_BELL, RUN_BELL, BENCH_BELL, CLAIMS = 4 * LINE, 5 * LINE, 6 * LINE, 7 * LINE
SLEEPERS = 1  # behind each bell's count
KERNELS, ARGS, COUNT, WIDTH, PARTS, FIRST, BASE, STOP = range(TASK, TASK + 8)
TAKEN, STALLS = TASK + 8, TASK + 9  # parts of others that threads did; sleeps inside runs
# How to sleep: `syscall` with the number of futex, or else a function that sleeps for a time
FUTEX, CALL, NAP, REST, TIMEOUT = range(SYSTEM, SYSTEM + 5)


def state_words(threads: int) -> int:
    """The size of the array for so many threads."""
    return CLAIMS + LINE * threads
