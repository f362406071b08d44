/** The process of one server's clients: there is a limit to the sockets of a process, and the server's CPU is its own. */
import { setTimeout } from 'node:timers/promises'
import { serveOrders } from '../processes/orders.js'
import { Crowd, openSocket, requestOf } from './sockets.js'

/** In which a server would have sent what it should not. */
const AFTERMATH = 50

let crowd = new Crowd()

async function connect ({ port, path, count, over }) {
  if (over === undefined) await crowd.open(port, requestOf(path), count)
  else await crowd.openOver(port, requestOf(path), count, over)
  return {}
}

/** How many have come, a moment after it should be all of them. */
async function received ({ count }) {
  await crowd.until(count)
  return { received: crowd.received }
}

async function disconnect () {
  await setTimeout(AFTERMATH)
  await crowd.close()
  const { received } = crowd
  crowd = new Crowd()
  return { received }
}

/**
 * All at once, until they have received so many events in all: how many seconds that took, from the requests and from the
 * first event on.
 */
async function rush ({ port, path, headers, count, events }) {
  const start = performance.now()
  const opened = crowd.open(port, requestOf(path, headers), count, count)
  await Promise.all([opened, crowd.until(events)])
  const end = performance.now()
  const { begun } = crowd
  const { received } = await disconnect()
  return { seconds: (end - start) / 1_000, flow: (end - begun) / 1_000, received }
}

/** Clients that come, one after the other, and leave at the first byte: how long all of them took, in seconds. */
async function comeAndGo ({ port, path, count, concurrency }) {
  const request = requestOf(path)
  let left = count
  const one = () => new Promise((resolve, reject) => {
    openSocket(port, request, (chunk, socket) => socket.destroy()).once('close', resolve).once('error', reject)
  })
  const line = async () => { while (left-- > 0) await one() }
  const start = performance.now()
  await Promise.all(Array.from({ length: concurrency }, line))
  return { seconds: (performance.now() - start) / 1_000 }
}

/** The body of a stream, as text, when nothing more comes of it. By HTTP/1.0, so without the lengths of chunks. */
async function sample ({ port, path, headers }) {
  let text = ''
  const socket = openSocket(port, requestOf(path, headers, '1.0'), (chunk) => { text += chunk.toString('latin1') })
  for (let length = -1; length !== text.length || length === 0;) {
    length = text.length
    await setTimeout(200)
  }
  socket.destroy()
  return { body: text.slice(text.indexOf('\r\n\r\n') + 4) }
}

serveOrders({ connect, received, disconnect, rush, comeAndGo, sample })
