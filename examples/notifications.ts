/** Notifications for each user, in all of his tabs: unread ones first. Who logs out is told nothing more. */
import cookie from '@fastify/cookie'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import sse from 'fastify-typed-sse'
import { randomUUID } from 'node:crypto'
import { fileURLToPath } from 'node:url'

const User = Type.Union([Type.Literal('ada'), Type.Literal('bob')])
const events = { notification: Type.Object({ from: Type.String(), text: Type.String() }) }

export async function createApp () {
  const app = Fastify().withTypeProvider<TypeBoxTypeProvider>()
  await app.register(cookie)
  await app.register(sse)

  /** What a database would have: who is logged in, and the ID of the last notification that a user has read. */
  const sessions = new Map<string, string>()
  const lastRead = new Map<string, string>()

  app.decorateRequest('user')
  const userOf = (request: FastifyRequest) => request.getDecorator<string>('user')
  const sessionOf = (request: FastifyRequest) => request.cookies.session ?? ''
  async function authenticate (request: FastifyRequest, reply: FastifyReply) {
    const user = sessions.get(sessionOf(request))
    // An EventSource gives up on this; the page sees `onerror` with `readyState` CLOSED, and asks for a login.
    if (user === undefined) return reply.code(401).send({ message: 'Log in first' })
    request.setDecorator('user', user)
  }

  /** A user's channel is there for the week that a notification is worth, whether he is or not. */
  const channelOf = (user: string) =>
    app.sse.channel(`user/${user}`, { events, history: { events: 100, age: 7 * 24 * 3_600_000 } })

  // Here a real app asks for a password.
  app.post('/login', { schema: { body: Type.Object({ user: User }) } }, async (request, reply) => {
    const session = randomUUID()
    sessions.set(session, request.body.user)
    return reply.setCookie('session', session, { path: '/', httpOnly: true, sameSite: 'strict' }).code(204).send()
  })

  app.post('/logout', { preHandler: authenticate }, async (request, reply) => {
    const session = sessionOf(request)
    sessions.delete(session)
    // What is open does not end by itself, as it was authorized. Each tab comes back, and is answered with 401.
    for (const connection of app.sse.connections) {
      if (sessionOf(connection.request) === session) connection.end('revoked')
    }
    return reply.clearCookie('session', { path: '/' }).code(204).send()
  })

  app.get('/notifications', { preHandler: authenticate, schema: { events } }, async (request, reply) => {
    const user = userOf(request)
    // A tab that comes back says itself what it has had.
    return reply.sse(channelOf(user).subscribe({ after: lastRead.get(user) ?? 'earliest' }))
  })

  const Read = Type.Object({ id: Type.String({ pattern: '^\\d+-\\d+$', maxLength: 64 }) })
  app.put('/notifications/read', { preHandler: authenticate, schema: { body: Read } }, async (request, reply) => {
    lastRead.set(userOf(request), request.body.id)
    return reply.code(204).send()
  })

  const message = { params: Type.Object({ user: User }), body: Type.Object({ text: Type.String({ maxLength: 1_000 }) }) }
  app.post('/notifications/:user', { preHandler: authenticate, schema: message }, async (request, reply) => {
    const data = { from: userOf(request), text: request.body.text }
    return reply.code(201).send({ id: await channelOf(request.params.user).publish({ event: 'notification', data }) })
  })

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  process.once('SIGINT', () => app.close())
  console.log(await app.listen({ port: Number(process.env.PORT || 3_000) }))
}
