/**
 * One client of an ordinary route, on a connection that it keeps. It asks by the clock, whether or not it has been answered,
 * and counts an answer's time from when the question was due: so a server that stands still is seen by all who would have
 * come meanwhile.
 */
import { setTimeout } from 'node:timers/promises'
import { MARK } from '../event.js'
import { serveOrders } from '../processes/orders.js'
import { openSocket, requestOf } from './sockets.js'

/** @returns the time of each answer in milliseconds */
async function probe ({ port, path, every, count }) {
  const request = requestOf(path, { Accept: 'application/json' })
  const times = []
  const start = performance.now()
  const dueOf = (n) => start + n * every
  const socket = openSocket(port, '', (chunk) => {
    for (const byte of chunk) {
      if (byte === MARK.charCodeAt(0)) times.push(performance.now() - dueOf(times.length))
    }
  })
  for (let asked = 0; asked < count;) {
    while (asked < count && dueOf(asked) <= performance.now()) {
      socket.write(request)
      asked++
    }
    await setTimeout(1)
  }
  while (times.length < count) await setTimeout(10)
  socket.destroy()
  return { times }
}

serveOrders({ probe })
