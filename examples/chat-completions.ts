/** The answer of a (fake) language model, token by token, as OpenAI's API streams it, so that its clients can read it. */
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { Type, type Static } from '@sinclair/typebox'
import Fastify from 'fastify'
import sse from 'fastify-typed-sse'
import { randomUUID } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const Question = Type.Object({
  model: Type.String(),
  messages: Type.Array(Type.Object({ role: Type.String(), content: Type.String() }), { minItems: 1 }),
  stream: Type.Literal(true)
})

export interface Chunk {
  id: string
  object: 'chat.completion.chunk'
  created: number
  model: string
  choices: [{ index: 0, delta: { role?: 'assistant', content?: string }, finish_reason: 'stop' | null }]
}

/** Says what it was asked, word by word. Costs money until its signal is aborted. */
async function * fakeModel ({ messages }: Static<typeof Question>, signal: AbortSignal): AsyncGenerator<string> {
  for (const token of `You said: ${messages.at(-1)!.content}`.split(/(?= )/)) {
    await setTimeout(50, undefined, { signal })
    yield token
  }
}

export async function createApp () {
  const app = Fastify({ logger: { level: process.env.LOG_LEVEL || 'info' } }).withTypeProvider<TypeBoxTypeProvider>()
  await app.register(sse)

  app.post('/v1/chat/completions', { schema: { body: Question } }, async (request, reply) => {
    const { model } = request.body
    const answer = { id: `chatcmpl-${randomUUID()}`, object: 'chat.completion.chunk', created: Math.floor(Date.now() / 1_000), model } as const
    const chunk = (delta: Chunk['choices'][0]['delta'], finished: 'stop' | null = null): Chunk =>
      ({ ...answer, choices: [{ index: 0, delta, finish_reason: finished }] })

    // The signal stops the model as soon as the client has gone.
    return reply.sse(async function * ({ signal }) {
      let tokens = 0
      try {
        yield { data: chunk({ role: 'assistant', content: '' }) }
        for await (const content of fakeModel(request.body, signal)) {
          tokens++
          yield { data: chunk({ content }) }
        }
        yield { data: chunk({}, 'stop') }
        // A bare string is sent as it is: as `data` it would be JSON, in quotes, which no client of this API looks for.
        yield '[DONE]'
      } finally {
        request.log.info({ tokens, isWhole: !signal.aborted }, 'answered')
      }
    })
  })

  return app
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const app = await createApp()
  process.once('SIGINT', () => app.close())
  await app.listen({ port: Number(process.env.PORT || 3_000) })
}
