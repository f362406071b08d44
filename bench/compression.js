/**
 * What compression costs and saves: `npm run build && node bench/compression.js`. One channel, many clients of another
 * process; plain, compressed once for all (gzip), and as a server by hand would do it, with a compressor for each client.
 * Figures are of the server process: medians of rounds that take turns; of memory the most, as what was freed is used again.
 */
import { fork } from 'node:child_process'
import net from 'node:net'
import { median } from './common.js'

const CLIENTS = Number(process.argv[2] ?? 1_000)
const ROUNDS = 3
const EVENTS = 10
const MODES = ['plain', 'shared', 'each']
/** How many objects an event has, of some 100 bytes each. */
const SIZES = [1, 3, 10, 100]

const server = fork(new URL('compression-server.js', import.meta.url), { execArgv: ['--expose-gc'] })
const ask = (order) => new Promise((resolve) => {
  server.once('message', resolve)
  server.send(order)
})
const ports = await ask({ is: 'ports' })

function connect (mode) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(ports[mode], '127.0.0.1')
    socket.write(`GET /${mode} HTTP/1.1\r\nHost: bench\r\nAccept-Encoding: gzip\r\n\r\n`)
    socket.once('data', () => resolve(socket)).resume()
    socket.on('error', reject)
  })
}

async function measure (mode, size) {
  const before = await ask({ is: 'usage' })
  const sockets = []
  while (sockets.length < CLIENTS) sockets.push(...await Promise.all(Array.from({ length: 100 }, () => connect(mode))))
  // The first events find caches cold.
  await ask({ is: 'publish', mode, size, count: 3 })
  const start = await ask({ is: 'usage' })
  const { bytes } = await ask({ is: 'publish', mode, size, count: EVENTS })
  const end = await ask({ is: 'usage' })
  for (const socket of sockets) socket.destroy()
  await ask({ is: 'empty' })
  return {
    cpu: (end.cpu - start.cpu) / (EVENTS * CLIENTS),
    bytes: bytes / (EVENTS * CLIENTS),
    memory: (end.rss - before.rss) / CLIENTS
  }
}

console.log(`${CLIENTS} clients; for each delivery: microseconds of CPU, bytes; for each client: KB resident`)
for (const size of SIZES) {
  const results = Object.fromEntries(MODES.map((mode) => [mode, []]))
  for (let round = 0; round < ROUNDS; round++) {
    for (const mode of MODES) results[mode].push(await measure(mode, size))
  }
  for (const mode of MODES) {
    const of = (figure) => results[mode].map((result) => result[figure])
    const [cpu, bytes, memory] = [median(of('cpu')), median(of('bytes')), Math.max(...of('memory'))]
    console.log(`${String(size).padStart(4)} objects, ${mode.padEnd(6)}: ${cpu.toFixed(1).padStart(6)} us, ` +
      `${Math.round(bytes).toString().padStart(6)} bytes, ${(memory / 1_024).toFixed(0).padStart(4)} KB`)
  }
}
server.disconnect()
