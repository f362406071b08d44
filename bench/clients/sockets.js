/** Clients at the lowest cost that there is: raw sockets that count marks in what they are given, and keep nothing of it. */
import net from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { MARK } from '../event.js'

const MARK_BYTE = MARK.charCodeAt(0)

/** What is read is looked at at once, so that one buffer does for all sockets. */
const buffer = Buffer.alloc(65_536)

export function requestOf (path, headers = {}, version = '1.1') {
  const lines = Object.entries({ Host: 'bench', Accept: 'text/event-stream', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`)
  return `GET ${path} HTTP/${version}\r\n${lines.join('')}\r\n`
}

function marksIn (chunk) {
  let marks = 0
  for (let at = chunk.indexOf(MARK_BYTE); at !== -1; at = chunk.indexOf(MARK_BYTE, at + 1)) marks++
  return marks
}

/** @param onChunk is given each chunk, which is overwritten by the next */
export function openSocket (port, request, onChunk) {
  const socket = net.connect({
    port,
    host: '127.0.0.1',
    onread: { buffer, callback: (length) => { onChunk(buffer.subarray(0, length), socket) } }
  })
  return socket.setNoDelay(true).once('connect', () => socket.write(request))
}

/** The open clients of one server, and what all of them have received. */
export class Crowd {
  received = 0
  /** When the first event came. */
  begun
  #sockets = []
  #wanted = Infinity
  #reached = () => {}

  /** Resolves with the first bytes. That a server cuts a client off before is an error; what comes later is counted. */
  #open (port, request) {
    return new Promise((resolve, reject) => {
      const socket = openSocket(port, request, (chunk) => {
        resolve()
        this.received += marksIn(chunk)
        if (this.received > 0) this.begun ??= performance.now()
        if (this.received >= this.#wanted) this.#reached()
      })
      socket.once('error', reject)
      socket.once('close', () => reject(new Error('a client was cut off')))
      this.#sockets.push(socket)
    })
  }

  /** As fast as they are answered, some at a time. */
  async open (port, request, count, atOnce = 200) {
    for (let opened = 0; opened < count; opened += atOnce) {
      const some = Math.min(atOnce, count - opened)
      await Promise.all(Array.from({ length: some }, () => this.#open(port, request)))
    }
  }

  /** Evenly over so many milliseconds. */
  async openOver (port, request, count, over) {
    const start = performance.now()
    const opened = []
    while (opened.length < count) {
      opened.push(this.#open(port, request))
      const due = start + over * opened.length / count
      if (due > performance.now()) await setTimeout(due - performance.now())
    }
    await Promise.all(opened)
  }

  /** Resolves when they have received so many in all. */
  until (count) {
    this.#wanted = count
    return new Promise((resolve) => {
      this.#reached = resolve
      if (this.received >= count) resolve()
    })
  }

  /** Resolves when all sockets have gone. */
  async close () {
    const sockets = this.#sockets
    this.#sockets = []
    await Promise.all(sockets.map((socket) => new Promise((resolve) => {
      if (socket.closed) resolve()
      else socket.once('close', resolve).destroy()
    })))
  }
}
