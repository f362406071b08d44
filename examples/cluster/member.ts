/** A process of the cluster: it can be killed, and is started again. */
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'

/** Milliseconds until a process that was killed is started again, unless somebody does it before. */
const RESTART_AFTER = 4_000

/** Starts the process. It calls `ready` with the port on which the process listens. */
export type Spawn = (ready: (port: number) => void) => ChildProcess

export interface Status {
  name: string
  state: 'starting' | 'running' | 'down'
  pid: number | null
}

export class Member {
  readonly name: string
  /** Where it listens, while it is running. */
  port: number | undefined
  readonly #spawn: Spawn
  readonly #onChange: (status: Status) => void
  #child: ChildProcess | undefined
  #restart: NodeJS.Timeout | undefined

  constructor (name: string, spawn: Spawn, onChange: (status: Status) => void) {
    this.name = name
    this.#spawn = spawn
    this.#onChange = onChange
  }

  get status (): Status {
    const state = this.#child === undefined ? 'down' : this.port === undefined ? 'starting' : 'running'
    return { name: this.name, state, pid: this.#child?.pid ?? null }
  }

  start (): void {
    if (this.#child !== undefined) return
    clearTimeout(this.#restart)
    const child = this.#child = this.#spawn((port) => {
      if (this.#child === child) this.#change(child, port)
    })
    child.once('exit', () => {
      this.#restart = setTimeout(() => this.start(), RESTART_AFTER)
      this.#change(undefined, undefined)
    })
    this.#change(child, undefined)
  }

  /** Without giving it any time to end well: `kill -9`. */
  kill (): void {
    this.#child?.kill('SIGKILL')
  }

  /** Kills it for good. */
  async end (): Promise<void> {
    if (this.#child !== undefined) {
      this.kill()
      await once(this.#child, 'exit')
    }
    clearTimeout(this.#restart)
  }

  #change (child: ChildProcess | undefined, port: number | undefined): void {
    this.#child = child
    this.port = port
    this.#onChange(this.status)
  }
}
