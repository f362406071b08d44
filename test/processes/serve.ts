/** What a process does for the test that has started it. */
import type { Redis } from 'ioredis'
import { setTimeout as pause } from 'node:timers/promises'
import type { SseChannel } from '../../index.ts'
import { stateKeyOf } from './channels.ts'
import { below, createRandom, textOf } from './random.ts'

/** Something that was published, or was not. */
export interface Told {
  name: string
  /** Who has published it. */
  by: string
  /** Which of his events to this channel it is. */
  n: number
  data: string
  /** Undefined: the promise was rejected with `code`. */
  id?: string
  code?: string
}

export interface Course {
  names: string[]
  by: string
  seed: number
  /** Undefined: until it is to stop. */
  events?: number
  /** The longest pause, in milliseconds. */
  pause: number
  /** Whether some of the process's streams are cut meanwhile. */
  cut?: boolean
}

type Methods = Record<string, (...args: any[]) => unknown>

/** Calls methods by name for the parent process, without which there is no more to do. */
export function serve (methods: Methods): void {
  process.on('message', async ({ call, method, args }: { call: number, method: string, args: unknown[] }) => {
    try {
      process.send!({ call, result: await methods[method]!(...args) })
    } catch (error: any) {
      process.send!({ call, error: { message: String(error?.stack ?? error), code: error?.code } })
    }
  })
  process.on('disconnect', () => process.exit())
  process.send!({ ready: true })
}

export function publisher (
  channelOf: (name: string) => SseChannel<any>, redis: Redis, cut: (random: () => number) => void = () => {}
): Methods {
  const control = { stopped: false }

  /** In bursts and singly; tells of each event what has become of it. */
  async function publish ({ names, by, seed, events = Infinity, pause: longest, cut: cuts = false }: Course): Promise<void> {
    const random = createRandom(seed)
    const counts = new Map<string, number>()
    const all = new Set<Promise<unknown>>()
    for (let left = events; left > 0 && !control.stopped;) {
      const size = Math.min(left, random() < 0.5 ? 1 : 1 + below(random, 40))
      left -= size
      const burst = Array.from({ length: size }, () => {
        const name = names[below(random, names.length)]!
        const n = counts.get(name) ?? 0
        counts.set(name, n + 1)
        return publishOne(name, by, n, textOf(random))
      })
      for (const one of burst) {
        all.add(one)
        one.then(() => all.delete(one))
      }
      if (random() < 0.7) await Promise.all(burst)
      if (cuts && random() < 0.2) cut(random)
      // Time for clients to come back meanwhile; what they then find is checked whatever it is.
      if (random() < 0.8) await pause(below(random, longest))
      // Nothing is gained by more than that in flight.
      while (all.size > 400) await Promise.race(all)
    }
    await Promise.all(all)
  }

  async function publishOne (name: string, by: string, n: number, text: string): Promise<string | undefined> {
    const data = { name, by, n, text }
    const told: Told = { name, by, n, data: JSON.stringify(data) }
    try {
      const channel = channelOf(name)
      const id = await channel.publish(n % 2 === 0 ? { data } : { event: 'tick', data })
      process.send!({ told: { ...told, id } })
      return id
    } catch (error: any) {
      process.send!({ told: { ...told, code: error?.code ?? String(error) } })
    }
  }

  /** Keys of its own, so that of each there is one order. What holds is stored before it is told. */
  async function count (name: string, by: string, keys: number, events: number, longest: number): Promise<void> {
    const channel = channelOf(name)
    await Promise.all(Array.from({ length: keys }, async (_, index) => {
      const key = `${by} ${index}`
      for (let left = events; left > 0; left--) {
        const data = { key, count: await redis.hincrby(stateKeyOf(name), key, 1) }
        const id = await channel.publish({ data })
        process.send!({ told: { name, by: key, n: data.count, data: JSON.stringify(data), id } satisfies Told })
        if (left % 8 === 0) await pause(below(Math.random, longest))
      }
    }))
  }

  return {
    publish,
    count,
    stop: () => { control.stopped = true },
    publishOnce: (name: string) => publishOne(name, 'once', 0, ''),
    publishOrThrow: (name: string) => channelOf(name).publish('one more'),
    close: (name: string) => channelOf(name).close()
  }
}
