/** The other end of serve.ts: calls methods of a process that serves them, and hears what it tells. */
import type { ChildProcess } from 'node:child_process'

export class Caller {
  readonly #process: ChildProcess
  readonly #onTold: (told: any) => void
  readonly #calls = new Map<number, { resolve: (result: any) => void, reject: (error: Error) => void }>()
  #call = 0

  /** @param output what the process has printed, for those whose calls it will not answer any more */
  constructor (process: ChildProcess, onTold: (told: any) => void, output: () => string = () => '') {
    this.#process = process
    this.#onTold = onTold
    process.on('message', (message) => this.#take(message))
    process.on('exit', () => {
      for (const { reject } of this.#calls.values()) reject(new Error(`the process has gone: ${output()}`))
      this.#calls.clear()
    })
  }

  call (method: string, ...args: unknown[]): Promise<any> {
    const call = this.#call++
    const result = new Promise((resolve, reject) => {
      this.#calls.set(call, { resolve, reject })
      this.#process.send({ call, method, args }, (error) => { if (error !== null) reject(error) })
    })
    // Who waits for it may wait for something else first.
    result.catch(() => {})
    return result
  }

  #take ({ told, call, result, error }: any): void {
    if (told !== undefined) this.#onTold(told)
    const known = this.#calls.get(call)
    this.#calls.delete(call)
    if (error === undefined) known?.resolve(result)
    else known?.reject(Object.assign(new Error(error.message), { code: error.code }))
  }
}
