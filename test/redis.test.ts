/** The Redis broker keeps every law, with both versions of its client. */
import { Redis } from 'ioredis'
import { Redis as Redis5 } from 'ioredis5'
import t from 'tap'
import { redisBroker, type RedisClient } from '../index.ts'
import { brokerLaws } from '../lib/testing/index.ts'
import { noRedis, startRedis } from './redis-server.ts'

const CLIENTS: Record<string, (port: number) => RedisClient> = {
  6: (port) => new Redis({ port, lazyConnect: true }),
  5: (port) => new Redis5({ port, lazyConnect: true })
}

for (const [version, connect] of Object.entries(CLIENTS)) {
  t.test(`with ioredis ${version} the Redis broker keeps every law`, { skip: noRedis }, async (t) => {
    const { port } = await startRedis(t)
    const client = connect(port)
    const one = redisBroker(client)
    const other = redisBroker(client)
    t.after(() => Promise.all([one.end(), other.end()]))
    for (const { name, check } of brokerLaws) await t.resolves(check({ one, other }), name)
  })
}
