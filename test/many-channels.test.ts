/** What very many channels leave behind. In a file of its own, as it counts timers, which earlier tests would have too. */
import { Type } from '@sinclair/typebox'
import t from 'tap'
import { memoryBroker } from '../index.ts'
import { collect, connect, createApp, listen, ownClock, turns, until } from './helpers.ts'

t.test('100,000 channels of jobs, each opened, published to, read, closed and dropped, leave nothing', { timeout: 120_000 }, async (t) => {
  const clock = ownClock(t)
  const broker = memoryBroker()
  const app = await createApp(t, { broker })
  const Progress = Type.Object({ percent: Type.Number() })
  app.get<{ Params: { job: string } }>('/:job', async (request, reply) => {
    return reply.sse(app.sse.channel(`job ${request.params.job}`).subscribe({ after: 'earliest' }))
  })
  const port = await listen(app)
  let count = 0
  let seen = 0

  async function job (): Promise<void> {
    const name = `job ${count}`
    const channel = app.sse.channel(name, { events: { progress: Progress }, history: { age: 1_000 } })
    const iterator = count % 10 === 0 ? channel.subscribe()[Symbol.asyncIterator]() : undefined
    const next = iterator?.next()
    await turns(iterator === undefined ? 0 : 1)
    await channel.publish({ event: 'progress', data: { percent: 100 } })
    if (count % 2_000 === 0) {
      const client = connect(t, port).get(`/${count}`)
      await client.until('"percent":100')
      if (count % 4_000 === 0) client.destroy()
    }
    await channel.close()
    if (next !== undefined) {
      if ((await next).value?.data?.percent === 100) seen++
      if ((await iterator!.next()).done !== true) throw new Error('the channel is closed, but the iteration has not ended')
    }
    count++
  }
  async function jobs (to: number): Promise<number> {
    while (count < to) {
      await job()
      // A second for 500 jobs; the finalizers need turns of the event loop.
      if (count % 500 === 0) await clock.tickAsync(1_000)
    }
    await clock.tickAsync(60_000)
    await until(() => app.sse.stats().open === 0)
    await collect()
    return process.memoryUsage().heapUsed
  }
  await jobs(2_000)
  const before = await jobs(20_000)
  const after = await jobs(100_000)
  t.equal(seen, 10_000)
  const perChannel = (after - before) / 80_000
  t.ok(perChannel < 30, `${perChannel.toFixed(1)} bytes for each channel that is gone`)
  const listener = { entry () {}, closed () {}, failed () {}, lost () {} }
  for (const n of [0, 1, 50_000, 99_999]) {
    const listening = await broker.listen(`job ${n}`, listener)
    t.equal(listening.known, false, `job ${n} is forgotten`)
    t.same((await broker.read(`job ${n}`, undefined, { entries: 10, bytes: 1_000 })).entries, [])
    listening.stop()
  }
  await clock.tickAsync(60_000)
  t.ok(clock.countTimers() <= 3, `${clock.countTimers()} timers`)
})
