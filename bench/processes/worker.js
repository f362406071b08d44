/** The side that gives orders: a process that answers each, by the channel of `fork` or by lines of JSON. */
import { fork, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

/** Longer than any order may take. */
const TIMEOUT = 120_000

export class Worker {
  #child
  #send
  #waiting = new Map()
  #next = 1
  #exited

  /** @param name of what runs in it, for messages */
  constructor (child, name, send) {
    this.#child = child
    this.#send = send
    this.#exited = new Promise((resolve) => child.once('exit', resolve).once('error', resolve))
    child.once('exit', (code, signal) => this.#failAll(`${name} has ended (${signal ?? code})`))
    child.once('error', ({ message }) => this.#failAll(`${name} did not start: ${message}`))
  }

  /** @returns a promise of the answer */
  ask (order, how = {}) {
    const id = this.#next++
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(id, { error: `no answer to '${order}'` }), TIMEOUT)
      this.#waiting.set(id, { resolve, reject, timer })
      this.#send({ id, order, with: how })
    })
  }

  answered ({ id, answer, error }) {
    this.#settle(id, { answer, error })
  }

  async end () {
    this.#child.kill('SIGKILL')
    await this.#exited
  }

  #settle (id, { answer, error }) {
    const waiting = this.#waiting.get(id)
    // It has come too late.
    if (waiting === undefined) return
    const { resolve, reject, timer } = waiting
    this.#waiting.delete(id)
    clearTimeout(timer)
    if (error === undefined) resolve(answer)
    else reject(new Error(error))
  }

  #failAll (error) {
    for (const id of this.#waiting.keys()) this.#settle(id, { error })
  }
}

/** @param url of a module that calls `serveOrders` */
export function startNode (url, options = {}) {
  const child = fork(url, [JSON.stringify(options)], { execArgv: ['--expose-gc'] })
  const worker = new Worker(child, url.pathname, (message) => child.send(message))
  child.on('message', (message) => worker.answered(message))
  return worker
}

/** @param path of a program that reads orders from its standard input, a line each */
export function startProgram (command, path) {
  const child = spawn(command, [path], { stdio: ['pipe', 'pipe', 'inherit'] })
  const worker = new Worker(child, path, (message) => child.stdin.write(`${JSON.stringify(message)}\n`))
  createInterface(child.stdout).on('line', (line) => worker.answered(JSON.parse(line)))
  return worker
}
