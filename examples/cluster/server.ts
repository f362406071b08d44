/**
 * Three app processes that share channels by a Redis of their own, and a page on which each of the four can be killed:
 * `npm run demo:cluster`, then open the URL that it prints. This process starts them, shows them, and gives each stream to
 * an app that lives, as a load balancer does.
 */
import { Type } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse from 'fastify-typed-sse'
import { fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Member, type Spawn, type Status } from './member.ts'
import { freePort, isInstalled, redisServer } from './redis.ts'

const PORT = Number(process.env.PORT || 3_000)

if (!isInstalled()) {
  console.error('redis-server is missing: apt-get install redis-server')
  process.exit(1)
}

const server = Fastify({ forceCloseConnections: true })
await server.register(sse, { retry: 500 })

const page = await readFile(new URL('page.html', import.meta.url))
server.get('/', (request, reply) => reply.type('text/html; charset=utf-8').send(page))

// 1. The processes, and what has become of them.

const events = {
  process: Type.Object({ name: Type.String(), state: Type.String(), pid: Type.Union([Type.Integer(), Type.Null()]) })
}
const processes = server.sse.channel('processes', { events, snapshot: () => members.map(({ status }) => toEvent(status)) })
const toEvent = (data: Status) => ({ event: 'process' as const, data })
const onChange = (status: Status) => { processes.publish(toEvent(status)) }

const folder = mkdtempSync(join(tmpdir(), 'fastify-typed-sse-'))
const redisPort = await freePort()
const appProcess = (name: string): Spawn => (ready) =>
  fork(fileURLToPath(new URL('app.js', import.meta.url)), [name, String(redisPort)]).once('message', ready)

const apps = ['app-1', 'app-2', 'app-3'].map((name) => new Member(name, appProcess(name), onChange))
const members = [...apps, new Member('redis-server', redisServer(redisPort, folder), onChange)]

server.get('/processes', { schema: { events } }, async (request, reply) => reply.sse(processes))

const params = Type.Object({ name: Type.String(), action: Type.Union([Type.Literal('kill'), Type.Literal('start')]) })
server.post<{ Params: { name: string, action: 'kill' | 'start' } }>('/processes/:name/:action', { schema: { params } },
  async (request, reply) => {
    members.find(({ name }) => name === request.params.name)?.[request.params.action]()
    return reply.code(204).send()
  })

// 2. The balancer: each stream goes to the next app that lives, and breaks off when that is killed.

let turn = 0

server.get('/events', async (request, reply) => {
  const living = apps.filter(({ port }) => port !== undefined)
  const app = living[turn++ % living.length]
  const { accept = '', 'last-event-id': lastEventId = '' } = request.headers
  const headers = { accept, 'last-event-id': String(lastEventId) }
  const answer = app && await fetch(`http://127.0.0.1:${app.port}/events`, { headers }).catch(() => undefined)
  // Where no app is there, an empty stream makes an EventSource come back. An error would end it for good.
  return answer ?? reply.sse([])
})

// 3. Whatever was started here ends with this process.

async function end (): Promise<void> {
  await Promise.all(members.map((member) => member.end()))
  await server.close()
  rmSync(folder, { recursive: true, force: true })
}
// More than once: npm and the terminal may both send it.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end)

try {
  const address = await server.listen({ port: PORT, host: '127.0.0.1' })
  for (const member of members) member.start()
  console.log(`\n  The demo is at http://localhost:${new URL(address).port}\n`)
} catch (error) {
  const inUse = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
  console.error(inUse ? `Port ${PORT} is in use. Choose another one: PORT=3001 npm run demo:cluster` : String(error))
  process.exitCode = 1
  await end()
}
