/** A Fastify process: routes of channels and runs, and whatever the test wants it to publish, to start or to stop. */
import fastify from 'fastify'
import { Redis } from 'ioredis'
import type { AddressInfo } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import sse, { redisBroker, type RunEnd, type SseChannel } from '../../index.ts'
import { kindOf, optionsOf, stateKeyOf } from './channels.ts'
import { below, type Random } from './random.ts'
import { publisher, serve } from './serve.ts'

export interface RunToStart {
  key: string
  events: number
  pause: number
  lease: number
  will?: string
}

const { REDIS, PORT = '0', TIMEOUT = '10000' } = process.env

const redis = new Redis({ port: Number(REDIS) })
redis.on('error', () => {})

const app = fastify()
await app.register(sse, { broker: redisBroker(redis, { timeout: Number(TIMEOUT) }), retry: 2 })

const channels = new Map<string, SseChannel<any>>()

function channelOf (name: string): SseChannel<any> {
  let channel = channels.get(name)
  if (channel === undefined) {
    channel = app.sse.channel(name, { ...optionsOf(name), ...(kindOf(name) === 'state' && { snapshot: () => snapshotOf(name) }) })
    channels.set(name, channel)
  }
  return channel
}

async function * snapshotOf (name: string) {
  for (const [key, count] of Object.entries(await redis.hgetall(stateKeyOf(name)))) yield { data: { key, count: Number(count) } }
}

app.get<{ Params: { names: string } }>('/channels/:names', (request, reply) => {
  const channels = request.params.names.split(',').map(channelOf)
  return reply.sse(channels.length === 1 ? channels[0]! : app.sse.subscribe(channels))
})
app.get<{ Params: { key: string } }>('/runs/:key', (request, reply) => reply.sse(app.sse.run.attach(request.params.key)))

/** The server's part in it: it destroys a socket, or ends a stream, whichever it is. */
function cut (random: Random): void {
  const open = [...app.sse.connections]
  const connection = open[below(random, open.length)]
  if (random() < 0.5) connection?.request.raw.socket.destroy()
  else connection?.end()
}

const runs = new Map<string, { ended: Promise<RunEnd>, source: { started: boolean, aborted: boolean } }>()

function run ({ key, events, pause: longest, lease, will }: RunToStart): void {
  const source = { started: false, aborted: false }
  const { ended } = app.sse.run(key, async function * ({ signal }) {
    source.started = true
    signal.addEventListener('abort', () => { source.aborted = true })
    for (let n = 0; n < events; n++) {
      yield { event: 'token', data: n }
      if (n % 4 === 0) await pause(below(Math.random, longest), undefined, { signal })
    }
  }, {
    lease,
    onEnd: ({ state }) => ({ event: 'end', data: state }),
    ...(will !== undefined && { will: { event: 'will', data: will } })
  })
  runs.set(key, { ended, source })
}

await app.listen({ port: Number(PORT), host: '127.0.0.1' })

serve({
  ...publisher(channelOf, redis, cut),
  port: () => (app.server.address() as AddressInfo).port,
  stats: () => app.sse.stats(),
  run,
  endOf: (key: string) => runs.get(key)!.ended.then(({ state, error }) => ({ state, code: (error as any)?.code })),
  sourceOf: (key: string) => runs.get(key)!.source,
  stopRun: (key: string) => app.sse.run.attach(key).stop()
})
