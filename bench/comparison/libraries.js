/**
 * Each library as the examples of its README use it. A route takes a source, which is an async iterable of events with the
 * fields `event` and `data`; what a library does not do with it by itself is not done here.
 */
import fastifySse from '@fastify/sse'
import { createAdaptorServer } from '@hono/node-server'
import { createSession } from 'better-sse'
import Fastify from 'fastify'
import { FastifySSEPlugin } from 'fastify-sse-v2'
import { Hono } from 'hono'
import { streamSSE } from 'hono/streaming'
import { once } from 'node:events'
import http from 'node:http'
import sse from '../../dist/index.js'

const LISTEN = { port: 0, host: '127.0.0.1' }

/** What Fastify's hooks have seen. */
function watch (app) {
  const hooks = { onSend: 0, onResponse: 0 }
  app.addHook('onSend', async () => { hooks.onSend++ })
  app.addHook('onResponse', async () => { hooks.onResponse++ })
  return hooks
}

async function listen (app, hooks) {
  return { url: await app.listen(LISTEN), hooks, close: () => app.close() }
}

/** A server of another kind is closed by its application, which has to end its streams itself. */
async function start (server) {
  server.listen(LISTEN)
  await once(server, 'listening')
  const { port } = server.address()
  return {
    url: `http://127.0.0.1:${port}`,
    async close () {
      server.closeAllConnections()
      server.close()
    }
  }
}

async function ours (route) {
  const app = Fastify()
  const hooks = watch(app)
  await app.register(sse)
  app.get('/', async (request, reply) => reply.sse(route.source(request.lastEventId)))
  return listen(app, hooks)
}

async function official (route) {
  const app = Fastify()
  const hooks = watch(app)
  await app.register(fastifySse)
  app.get('/', { sse: 'only' }, async (request, reply) => {
    await reply.sse.send(route.source(reply.sse.lastEventId ?? undefined))
  })
  return listen(app, hooks)
}

async function v2 (route) {
  const app = Fastify()
  const hooks = watch(app)
  await app.register(FastifySSEPlugin)
  app.get('/', (request, reply) => { reply.sse(route.source(undefined)) })
  return listen(app, hooks)
}

async function betterSse (route) {
  return start(http.createServer(async (request, response) => {
    try {
      const session = await createSession(request, response)
      await session.iterate(route.source(session.lastId || undefined))
      response.end()
    } catch {
      response.destroy()
    }
  }))
}

async function hono (route) {
  const app = new Hono()
  app.get('/', (c) => streamSSE(c, async (stream) => {
    for await (const event of route.source(undefined)) await stream.writeSSE(event)
  }, async () => {}))
  return start(createAdaptorServer({ fetch: app.fetch }))
}

export const LIBRARIES = {
  'fastify-typed-sse': ours,
  '@fastify/sse': official,
  'fastify-sse-v2': v2,
  'better-sse': betterSse,
  hono
}
