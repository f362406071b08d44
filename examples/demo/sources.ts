/** Where the demo's data come from. Nothing in here knows Fastify or event streams. */
import { EventEmitter, once } from 'node:events'
import { readdir } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'

interface Entry<T> {
  id: number
  value: T
}

/** The last values of something that goes on, for readers who come late, come back, or stay. */
export class Feed<T> {
  readonly #size: number
  readonly #arrivals = new EventEmitter().setMaxListeners(0)
  #entries: Entry<T>[] = []

  /** @param size how many values are kept */
  constructor (size: number) {
    this.#size = size
  }

  push (value: T): void {
    // The time in milliseconds, but never the same twice: IDs that go on growing when the server is started again.
    const id = Math.max(Date.now(), (this.#entries.at(-1)?.id ?? 0) + 1)
    this.#entries = [...this.#entries.slice(1 - this.#size), { id, value }]
    this.#arrivals.emit('entry')
  }

  /** Every value that is kept and newer than the reader's last one, then each new one, until the signal is aborted. */
  async * after (lastEventId: string | undefined, signal: AbortSignal): AsyncGenerator<Entry<T>> {
    // Any client can send any ID: what is not a number counts as none.
    let last = Number(lastEventId) || 0
    for (;;) {
      for (const entry of this.#entries.filter(({ id }) => id > last)) {
        last = entry.id
        yield entry
      }
      // More may have come while a slow reader took these; only a reader that has them all waits.
      if ((this.#entries.at(-1)?.id ?? 0) <= last) await once(this.#arrivals, 'entry', { signal })
    }
  }
}

/** Gives a function that tells how busy all cores together were since it was last called, in percent. */
export function cpuMeter (): () => number {
  let earlier = cpuTimes()
  return () => {
    const now = cpuTimes()
    const percent = 100 * (now.busy - earlier.busy) / Math.max(1, now.all - earlier.all)
    earlier = now
    return Math.min(100, Math.max(0, percent))
  }
}

function cpuTimes () {
  const cores = os.cpus().map(({ times }) => ({ idle: times.idle, busy: times.user + times.nice + times.sys + times.irq }))
  const busy = cores.reduce((sum, core) => sum + core.busy, 0)
  return { busy, all: busy + cores.reduce((sum, core) => sum + core.idle, 0) }
}

/** The paths of a folder's files, however deep, in their order; at most `limit`. */
export async function listFiles (folder: string, limit: number): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  return paths.sort().slice(0, limit)
}
