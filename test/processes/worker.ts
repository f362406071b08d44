/** A process that publishes, and has no Fastify. */
import { Redis } from 'ioredis'
import { createHub, redisBroker } from '../../index.ts'
import { optionsOf } from './channels.ts'
import { publisher, serve } from './serve.ts'

const redis = new Redis({ port: Number(process.env.REDIS) })
redis.on('error', () => {})

const hub = createHub({ broker: redisBroker(redis) })

serve(publisher((name) => hub.channel(name, optionsOf(name)), redis))
