/** What all servers have in common: the orders that they take, and what they say of themselves. */
import { serveOrders } from '../processes/orders.js'

/** Longer than Node's 511, as thousands come at once; the operating system may have its own limit. */
const BACKLOG = 8_192

/** Where to listen, for `server.listen` as for `app.listen`. */
export const LISTEN = { port: 0, host: '127.0.0.1', backlog: BACKLOG }

/** What the figure wants of this server: `{ keepAlive }`, `{ hooks }`. */
export const options = JSON.parse(process.argv[2] ?? '{}')

function usage ({ gc = false }) {
  if (gc) globalThis.gc()
  const { user, system } = process.cpuUsage()
  const { heapUsed, rss } = process.memoryUsage()
  return { cpu: user + system, heap: heapUsed, rss }
}

/**
 * Publishes by the clock, as a server does whose events come from elsewhere, and answers when the last is published.
 * @param publish publishes so many events in one turn of the event loop
 */
function publishByTheClock (publish, { turns, batch, every, together }) {
  return new Promise((resolve) => {
    const timer = setInterval(() => {
      publish(batch, together)
      if (--turns === 0) {
        clearInterval(timer)
        resolve({})
      }
    }, every)
  })
}

/** @param server a listening server of node:http */
export function takeOrders (server, { publish, ...others }) {
  serveOrders({
    port: () => server.address().port,
    usage,
    publish: (how) => publishByTheClock(publish, how),
    ...others
  })
}
