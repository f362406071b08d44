/**
 * What one process holds: `npm run build && node bench/capacity.js`. Needs redis-server. A server process with the Redis
 * broker; clients are raw sockets of this process, which read and drop. Figures are of the server process.
 */
import { fork } from 'node:child_process'
import net from 'node:net'
import { setTimeout } from 'node:timers/promises'
import { median, startRedis } from './common.js'

const CONNECTIONS = Number(process.argv[2] ?? 10_000)
const AT_ONCE = 200
const ROUNDS = 5

const redis = await startRedis()
const server = fork(new URL('capacity-server.js', import.meta.url), [String(redis.port)], { execArgv: ['--expose-gc'] })
const ask = (order) => new Promise((resolve) => {
  server.once('message', resolve)
  server.send(order)
})
const { port } = await ask({ is: 'port' })

function connect (path) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1')
    socket.write(`GET ${path} HTTP/1.1\r\nHost: bench\r\n\r\n`)
    // The first block is the position.
    socket.once('data', () => resolve(socket)).resume()
    socket.on('error', reject)
  })
}

async function connectAll (count, pathOf) {
  const sockets = []
  for (let at = 0; at < count; at += AT_ONCE) {
    const some = Array.from({ length: Math.min(AT_ONCE, count - at) }, (_, index) => connect(pathOf(at + index)))
    sockets.push(...await Promise.all(some))
  }
  return sockets
}

async function hold (title, count, pathOf) {
  const before = await ask({ is: 'usage' })
  const start = performance.now()
  const sockets = await connectAll(count, pathOf)
  const seconds = (performance.now() - start) / 1_000
  await setTimeout(500)
  const after = await ask({ is: 'usage' })
  console.log(`${title}: ${count} connections, ${Math.round(count / seconds)} a second; for each`,
    `${Math.round((after.rss - before.rss) / count)} bytes resident, ${Math.round((after.heap - before.heap) / count)} of heap,`,
    `${Math.round((after.cpu - before.cpu) / count)} us of CPU`)
  return sockets
}

async function deliver (count, batch, times) {
  const works = []
  for (let round = 0; round < ROUNDS; round++) {
    const { cpu } = await ask({ is: 'usage' })
    const after = await ask({ is: 'publish', batch, times })
    works.push((after.cpu - cpu) / (count * batch * times))
  }
  console.log(`${count} readers of one channel, ${batch} events at once: ${median(works).toFixed(2)} us of CPU for each delivery`)
}

async function release (sockets) {
  for (const socket of sockets) socket.destroy()
  while ((await ask({ is: 'usage' })).open > 0) await setTimeout(50)
}

const shared = await hold('one channel for all', CONNECTIONS, () => '/shared')
await deliver(CONNECTIONS, 1, 10)
await deliver(CONNECTIONS, 10, 5)
await release(shared)

const own = await hold('a channel for each', CONNECTIONS, (n) => `/user/${n}`)
const before = await ask({ is: 'usage' })
const after = await ask({ is: 'notify', count: 2_000, of: CONNECTIONS })
console.log(`2,000 events, each on the channel of one reader: ${Math.round((after.cpu - before.cpu) / 2_000)} us of CPU for each`)
await release(own)

server.disconnect()
redis.end()
