/** The runs of a hub by key: each is started once, joined by any number, and forgotten a set time after its end. */
import { isDeepStrictEqual } from 'node:util'
import { InvalidOption, ShuttingDown, UnknownRun } from '../errors.ts'
import { wireType } from '../event.ts'
import { letGo } from '../source.ts'
import { WeakValues } from '../weak-values.ts'
import { Channel, type HubParts } from './channel.ts'
import type { Compiled } from './compiled.ts'
import { checkName, resolveRunOptions, type ResolvedChannelOptions, type RunOptions } from './options.ts'
import { AttachedRun, Run, stopElsewhere } from './run.ts'

/** The names of the channels that runs are recorded as. */
export const RUN_PREFIX = 'run:'

/** Milliseconds by which a timer may be early, and a clock late. */
const LATER = 100

export class Runs {
  readonly #parts: HubParts
  readonly #compiled: Compiled
  readonly #runs = new Map<string, { run: Run, channel: Channel }>()
  /** Of runs that are recorded elsewhere, or nowhere: anybody may ask for any key, so only their readers keep them. */
  readonly #attached = new WeakValues<Channel>()
  #closed = false

  constructor (parts: HubParts, compiled: Compiled) {
    this.#parts = parts
    this.#compiled = compiled
  }

  /** @throws {InvalidOption | InvalidSchema | ShuttingDown} having let go of the source */
  start (key: string, source: unknown, options: RunOptions = {}): Run {
    try {
      checkName(key, 'the key of a run')
      const known = this.#runs.get(key)
      if (known === undefined) return this.#start(key, source, options)
      checkSameEvents(key, known.channel, options)
      letGo(source)
      return known.run
    } catch (error) {
      letGo(source)
      throw error
    }
  }

  /** @throws {InvalidOption} */
  attach (key: string, options: Pick<RunOptions, 'events'> = {}): AttachedRun {
    checkName(key, 'the key of a run')
    const { channel: { events, ...rest }, forgetAfter } = resolveRunOptions(options, key)
    const known = this.#runs.get(key)
    let channel = known?.channel ?? this.#attached.get(key)
    if (channel === undefined) {
      channel = this.#create(key, { events: undefined, ...rest }, () => new UnknownRun(key))
      this.#attached.set(key, channel)
    }
    // It was checked when it was recorded: here the schemas only say what can come.
    const types = events === undefined ? channel.types : new Set(Object.keys(events).map(wireType))
    return new AttachedRun(key, channel, types, known?.run.stop ?? (() => stopElsewhere(channel, forgetAfter)))
  }

  async close (): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#runs.values()].map(({ run }) => run.release()))
  }

  #start (key: string, source: unknown, options: RunOptions): Run {
    if (this.#closed) throw new ShuttingDown()
    const resolved = resolveRunOptions(options, key)
    let hasEnded = false
    // Who has started a run can read it, though the broker may not know of it yet.
    const channel = this.#create(key, resolved.channel, () => hasEnded ? new UnknownRun(key) : undefined)
    const run = new Run(key, channel, source, resolved, this.#parts)
    this.#runs.set(key, { run, channel })
    run.ended.then(() => {
      hasEnded = true
      const forget = () => { this.#runs.delete(key) }
      if (!run.isRecorder) forget()
      // Not before the broker has: who then starts it anew is the first.
      else setTimeout(forget, resolved.forgetAfter + LATER).unref()
    })
    return run
  }

  #create (key: string, options: ResolvedChannelOptions, unknown: () => Error | undefined): Channel {
    const name = RUN_PREFIX + key
    return new Channel(name, options, this.#compiled.for(name, options.events), this.#parts, unknown)
  }
}

/** @throws {InvalidOption} */
function checkSameEvents (key: string, { options }: Channel, { events }: RunOptions): void {
  if (events === undefined || isDeepStrictEqual(options.events, events)) return
  throw new InvalidOption(`run '${key}' was started already, with other 'events'`)
}
