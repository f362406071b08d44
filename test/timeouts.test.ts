/** What ends or delays a stream by the clock: writeTimeout, maxDuration, retry, and the lines that connections wait in. */
import FakeTimers, { type Clock } from '@sinonjs/fake-timers'
import fc from 'fast-check'
import type { FastifyInstance } from 'fastify'
import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import { Silence } from '../lib/silence.ts'
import { Lines, type Line, type Waiting } from '../lib/timeouts.ts'
import { isStuck, untilBehind } from './behind.ts'
import { connect, createApp, deferred, idleSource, listen, ownClock, turns, until, type RawClient } from './helpers.ts'

const onlyConnection = (app: FastifyInstance) => [...app.sse.connections][0]!

/** Somebody that waits, and does what a test says when that is over. */
class Waiter implements Waiting {
  appointment: Waiting['appointment'] = undefined
  earlier: Waiting | undefined
  later: Waiting | undefined
  since = 0
  onDue: (this: Waiter, line: Line, late: number) => void

  constructor (onDue: (this: Waiter, line: Line, late: number) => void = () => {}) {
    this.onDue = onDue
  }
}

/** Counts the timers that are set from now on: each wakes the process up once, unless it is cleared. */
function countTimersSet (t: Test): { set: number } {
  const count = { set: 0 }
  const { setTimeout } = globalThis
  globalThis.setTimeout = function counting (...args: Parameters<typeof setTimeout>) {
    count.set++
    return setTimeout(...args)
  } as typeof setTimeout
  t.after(() => { globalThis.setTimeout = setTimeout })
  return count
}

const KINDS = ['within', 'after'] as const

for (const kind of KINDS) {
  t.test(`${kind}: a line of waiters has one timer, and none when it is empty`, async (t) => {
    const clock = ownClock(t)
    const lines = new Lines()
    let due = 0
    const waiters = Array.from({ length: 1_000 }, () => new Waiter(() => { due++ }))
    t.equal(lines[kind](100), lines[kind](100), 'one line for each length of time')
    for (const waiter of waiters) lines[kind](100).wait(waiter)
    t.equal(clock.countTimers(), 1)
    for (const waiter of waiters) lines[kind](100).wait(waiter)
    t.equal(clock.countTimers(), 1, 'to begin again takes no other')
    lines[kind](50).wait(waiters[0]!)
    t.equal(clock.countTimers(), 2, 'another length of time is another line')
    clock.tick(50)
    t.equal(due, 1)
    clock.tick(50)
    t.equal(due, 1_000)
    t.equal(clock.countTimers(), 0)
  })

  t.test(`${kind}: an empty line has no timer after its time, and a new one for who comes then`, async (t) => {
    const clock = ownClock(t)
    const line = new Lines()[kind](100)
    let due = 0
    const waiter = new Waiter(() => { due++ })
    for (let round = 1; round <= 2; round++) {
      line.wait(waiter)
      clock.tick(40)
      line.leave(waiter)
      clock.tick(60)
      t.equal(clock.countTimers(), 0, 'it has left')
      line.wait(waiter)
      t.equal(clock.countTimers(), 1)
      clock.tick(100)
      t.equal(due, round)
      t.equal(clock.countTimers(), 0, 'it was due')
    }
  })

  t.test(`${kind}: waiters are due in the order in which they began to wait, each in its time`, async (t) => {
    const clock = ownClock(t)
    const line = new Lines()[kind](100)
    const due: string[] = []
    const start = performance.now()
    const [a, b, c] = ['a', 'b', 'c'].map((name) => new Waiter(() => { due.push(`${name} ${performance.now() - start}`) }))
    line.wait(a!)
    clock.tick(10)
    line.wait(b!)
    clock.tick(10)
    line.wait(c!)
    clock.tick(10)
    line.wait(a!)
    clock.tick(1_000)
    t.same(due, ['b 110', 'c 120', 'a 130'])
  })

  t.test(`${kind}: a waiter leaves from wherever it stands, and the others stay`, async (t) => {
    for (const leaving of [[0], [1], [2], [3], [0, 1], [1, 2], [2, 3], [0, 3], [3, 2, 1, 0]]) {
      await t.test(`leaving: ${leaving}`, async (t) => {
        const clock = ownClock(t)
        const line = new Lines()[kind](100)
        const due: number[] = []
        const waiters = [0, 1, 2, 3].map((index) => new Waiter(() => { due.push(index) }))
        for (const waiter of waiters) line.wait(waiter)
        for (const index of leaving) line.leave(waiters[index]!)
        for (const index of leaving) line.leave(waiters[index]!)
        clock.tick(100)
        t.same(due, [0, 1, 2, 3].filter((index) => !leaving.includes(index)))
        for (const index of leaving) line.wait(waiters[index]!)
        clock.tick(100)
        t.same(due.slice(-leaving.length), leaving, 'and may wait again')
        t.equal(clock.countTimers(), 0)
      })
    }
  })

  t.test(`${kind}: to wait in another line is to leave the first`, async (t) => {
    const clock = ownClock(t)
    const lines = new Lines()
    let due = 0
    const waiter = new Waiter(() => { due++ })
    lines[kind](100).wait(waiter)
    lines[kind](300).wait(waiter)
    lines[kind](100).leave(waiter)
    clock.tick(299)
    t.equal(due, 0)
    clock.tick(1)
    t.equal(due, 1)
    clock.tick(1_000)
    t.equal(due, 1)
  })

  t.test(`${kind}: one that waits again when it is due postpones nobody`, async (t) => {
    const clock = ownClock(t)
    const line = new Lines()[kind](100)
    const due: string[] = []
    const start = performance.now()
    const note = (name: string) => due.push(`${name} ${performance.now() - start}`)
    line.wait(new Waiter(function () { note('a'); line.wait(this) }))
    clock.tick(30)
    line.wait(new Waiter(() => { note('b') }))
    clock.tick(30)
    line.wait(new Waiter(function () { note('c'); line.wait(this) }))
    clock.tick(200)
    t.same(due, ['a 100', 'b 130', 'c 160', 'a 200', 'c 260'])
    t.equal(clock.countTimers(), 1)
  })

  t.test(`${kind}: one that is due may make another leave, or begin again, who is due at the same time`, async (t) => {
    const clock = ownClock(t)
    const line = new Lines()[kind](100)
    const due: string[] = []
    const [second, third] = ['second', 'third'].map((name) => new Waiter(() => { due.push(name) }))
    line.wait(new Waiter(() => {
      due.push('first')
      line.leave(second!)
      line.wait(third!)
    }))
    line.wait(second!)
    line.wait(third!)
    line.wait(new Waiter(() => { due.push('fourth') }))
    clock.tick(100)
    t.same(due, ['first', 'fourth'])
    clock.tick(99)
    t.same(due, ['first', 'fourth'])
    clock.tick(1)
    t.same(due, ['first', 'fourth', 'third'])
  })

  t.test(`${kind}: to go on in another line counts from the first moment`, async (t) => {
    const clock = ownClock(t)
    const lines = new Lines()
    const due: string[] = []
    const start = performance.now()
    const waiter = new Waiter((line, late) => {
      const ms = [100, 300, 1_000].find((ms) => line === lines[kind](ms))
      due.push(`${ms} at ${performance.now() - start}, late by ${late}`)
      if (late === 0 && ms === 100) lines[kind](300).goOn(waiter)
    })
    lines[kind](100).wait(waiter)
    clock.tick(400)
    t.same(due.splice(0), ['100 at 100, late by 0', '300 at 300, late by 0'])
    lines[kind](1_000).wait(waiter)
    clock.tick(250)
    lines[kind](300).goOn(waiter)
    clock.tick(1_000)
    t.same(due.splice(0), ['300 at 700, late by 0'], 'a shorter one')
    lines[kind](1_000).wait(waiter)
    clock.tick(250)
    lines[kind](100).goOn(waiter)
    t.same(due, [], 'not while it is asked for')
    clock.tick(1)
    t.same(due.splice(0), ['100 at 1901, late by 151'], 'one that was over long ago')
    clock.tick(1_000)
    t.same(due, [])
    t.equal(clock.countTimers(), 0)
  })

  t.test(`${kind}: one that goes on may be due before all that wait already`, async (t) => {
    const clock = ownClock(t)
    const lines = new Lines()
    const due: string[] = []
    const start = performance.now()
    const [a, b] = ['a', 'b'].map((name) => new Waiter(() => { due.push(`${name} ${performance.now() - start}`) }))
    lines[kind](1_000).wait(a!)
    clock.tick(50)
    lines[kind](100).wait(b!)
    clock.tick(10)
    lines[kind](100).goOn(a!)
    clock.tick(39)
    t.same(due, [])
    t.equal(clock.countTimers(), 2, 'the line that it has left has its timer still')
    clock.tick(1)
    t.same(due, ['a 100'])
    clock.tick(900)
    t.same(due, ['a 100', 'b 150'])
    t.equal(clock.countTimers(), 0)
  })

  t.test(`${kind}: who was blocked meanwhile is told by how much it is late`, async (t) => {
    const clock = ownClock(t)
    const line = new Lines()[kind](100)
    const lates: number[] = []
    for (let n = 0; n < 2; n++) {
      line.wait(new Waiter((_, late) => { lates.push(late) }))
      clock.tick(40)
    }
    // Moves the clock, and only then calls the timers.
    clock.jump(5_000)
    t.same(lates, [4_980, 4_940])
    t.equal(clock.countTimers(), 0)
  })
}

t.test('waits that begin within 1/64 of their length are over together: at the first\'s time, or at the last\'s', async (t) => {
  for (const [kind, at] of [['within', 6_400], ['after', 6_500]] as const) {
    await t.test(kind, async (t) => {
      const clock = ownClock(t)
      const start = performance.now()
      const line = new Lines()[kind](6_400)
      const due: number[] = []
      const wait = () => line.wait(new Waiter(() => { due.push(performance.now() - start) }))
      for (let n = 0; n < 100; n++) {
        wait()
        clock.tick(1)
      }
      wait()
      t.equal(clock.countTimers(), 1)
      clock.tick(1)
      wait()
      t.equal(clock.countTimers(), 1, 'nor has another appointment a timer')
      clock.tick(at - 1 - 101)
      t.same(due, [])
      clock.tick(1)
      t.same(due, Array(101).fill(at), 'one wake-up serves all')
      t.equal(clock.countTimers(), 1)
      clock.tick(1_000)
      t.same(due.slice(101), [6_501], 'but for the one that began later')
      t.equal(clock.countTimers(), 0)
    })
  }
})

t.test('who begins again is not due with those it was with, but in its new time', async (t) => {
  for (const [kind, renewed, at] of [
    // It began a tolerance after the other; had it kept its appointment it would be early by more than that.
    ['within', 101, 6_501],
    ['within', 100, 6_400],
    ['after', 1, 6_401],
    ['after', 100, 6_500]
  ] as const) {
    await t.test(`${kind}, ${renewed} ms later`, async (t) => {
      const clock = ownClock(t)
      const start = performance.now()
      const line = new Lines()[kind](6_400)
      const due: string[] = []
      const [a, b] = ['a', 'b'].map((name) => new Waiter(() => { due.push(`${name} ${performance.now() - start}`) }))
      line.wait(a!)
      line.wait(b!)
      clock.tick(renewed)
      line.wait(b!)
      clock.tick(10_000)
      t.same(due, ['a 6400', `b ${at}`])
    })
  }
})

for (const kind of KINDS) {
  t.test(`${kind}: a wait of the longest time that Node can measure does not wake the process at once`, async (t) => {
    const clock = ownClock(t)
    clock.tick(0.5)
    const count = countTimersSet(t)
    const longest = 2 ** 31 - 1
    let due = 0
    new Lines()[kind](longest).wait(new Waiter(() => { due++ }))
    clock.tick(longest / 2)
    t.equal(count.set, 1)
    clock.tick(longest / 2 + 1)
    t.equal(due, 1)
  })
}

t.test('who goes on in a line where its time is over does not put off those who are due at that moment', async (t) => {
  const clock = ownClock(t)
  const start = performance.now()
  const lines = new Lines()
  const due: string[] = []
  const note = (name: string) => { due.push(`${name} ${performance.now() - start}`) }
  const old = new Waiter(() => note('old'))
  lines.after(1_000).wait(old)
  clock.tick(100)
  // Of two timers that are due at once, that of this one is first.
  lines.after(64).wait(new Waiter(() => lines.within(64).goOn(old)))
  lines.within(64).wait(new Waiter(() => note('punctual')))
  clock.tick(64)
  t.same(due, ['old 164', 'punctual 164'])
})

t.test('however many wait, the process is woken some 64 times within one length', async (t) => {
  for (const kind of KINDS) {
    const clock = ownClock(t)
    const timers = countTimersSet(t)
    const line = new Lines()[kind](6_400)
    let due = 0
    const waiters = Array.from({ length: 6_400 }, () => new Waiter(function () {
      due++
      line.wait(this)
    }))
    for (const waiter of waiters) {
      line.wait(waiter)
      clock.tick(1)
    }
    timers.set = 0
    due = 0
    clock.tick(64_000)
    t.ok(due >= 62_000, `${kind}: ${due} times somebody was due within ten lengths`)
    t.ok(timers.set <= 10 * MOST_WAKES[kind], `${kind}: woken ${timers.set} times`)
    clock.uninstall()
  }
})

/** Where waits are longer than said, a timer may find that somebody has joined, and is set once more. */
const MOST_WAKES = { within: 66, after: 2 * 66 }

t.test('whoever begins, begins again, leaves, moves and goes on, at whatever times: nobody is due out of its time', async (t) => {
  const lengths = [1, 50, 64, 640, 1_000]
  const waiter = fc.nat(7)
  const line = fc.record({ kind: fc.constantFrom(...KINDS), ms: fc.constantFrom(...lengths) })
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ does: fc.constant('wait' as const), waiter, line }) },
    { weight: 2, arbitrary: fc.record({ does: fc.constant('begin again' as const), waiter }) },
    { weight: 1, arbitrary: fc.record({ does: fc.constant('go on' as const), waiter, line }) },
    { weight: 1, arbitrary: fc.record({ does: fc.constant('leave' as const), waiter }) })
  const command = fc.oneof(
    { weight: 3, arbitrary: step },
    { weight: 1, arbitrary: fc.record({ does: fc.constant('is due' as const), waiter, step }) },
    { weight: 2, arbitrary: fc.record({ does: fc.constant('time' as const), ms: fc.oneof(fc.nat(20), fc.nat(700)) }) })

  type Step = typeof step extends fc.Arbitrary<infer T> ? T : never
  /** What is known of one that waits: where, since when, and since when it waits there. */
  type Waits = { kind: typeof KINDS[number], ms: number, since: number, there: number }

  function run (commands: (typeof command extends fc.Arbitrary<infer T> ? T : never)[]): void {
    const clock = FakeTimers.install({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    try {
      const lines = new Lines()
      const used = new Set<Line>()
      const known: (Waits | undefined)[] = []
      const onceDue = new Map<number, Step>()
      const waiters = Array.from({ length: 8 }, (_, index) => new Waiter(function (line, late) {
        const { kind, ms, since, there } = known[index]!
        const now = performance.now()
        const early = kind === 'within' ? ms / 64 : 0
        assert.equal(line, lines[kind](ms))
        // What is late is the appointment, which may have been made for somebody else, or for before it began again.
        assert.ok(late >= 0)
        assert.ok(now >= since + ms - early, `${index}, ${kind} ${ms} since ${since}, is due at ${now}: too early`)
        assert.ok(now <= latest({ kind, ms, since, there }), `${index}, ${kind} ${ms} since ${since}, is due at ${now}: too late`)
        assert.equal(this.appointment, undefined)
        known[index] = undefined
        const next = onceDue.get(index)
        onceDue.delete(index)
        if (next !== undefined) take(next)
      }))
      // One that goes on where it was over already is due in a moment.
      const latest = ({ kind, ms, since, there }: Waits) =>
        Math.max(since + ms + (kind === 'after' ? ms / 64 : 0), there + 1)

      function take (step: Step): void {
        const waits = known[step.waiter]
        const waiter = waiters[step.waiter]!
        const now = performance.now()
        if (step.does === 'wait' || (step.does === 'go on' && waits !== undefined)) {
          const { kind, ms } = step.line
          const isThere = waits?.kind === kind && waits.ms === ms
          used.add(lines[kind](ms))
          if (step.does === 'wait') lines[kind](ms).wait(waiter)
          else lines[kind](ms).goOn(waiter)
          const since = step.does === 'wait' ? now : waits!.since
          known[step.waiter] = { kind, ms, since, there: isThere && step.does === 'wait' ? waits.there : now }
        } else if (waits === undefined) {
          // It waits nowhere.
        } else if (step.does === 'begin again') {
          lines[waits.kind](waits.ms).wait(waiter)
          waits.since = now
        } else if (step.does === 'leave') {
          lines[waits.kind](waits.ms).leave(waiter)
          known[step.waiter] = undefined
        }
      }

      function check (): void {
        const now = performance.now()
        for (const waits of known) {
          if (waits === undefined) continue
          assert.ok(latest(waits) >= now, `${waits.kind} ${waits.ms} since ${waits.since} was not due until ${now}`)
        }
        assert.ok(clock.countTimers() <= used.size, 'no more than one timer for each line')
      }

      for (const command of commands) {
        if (command.does === 'time') clock.tick(command.ms)
        else if (command.does === 'is due') onceDue.set(command.waiter, command.step)
        else take(command)
        check()
      }
      onceDue.clear()
      clock.tick(2_100)
      check()
      assert.ok(known.every((waits) => waits === undefined), 'everybody was due')
      assert.equal(clock.countTimers(), 0)
    } finally {
      clock.uninstall()
    }
  }

  fc.assert(fc.property(fc.array(command, { maxLength: 80, size: 'max' }), run), { numRuns: 1_000 })
})

/** A stream that its client does not read: its source yields until that is enough, then what the test gives it. */
async function stall (t: Test, app: FastifyInstance, size: number, enough: (socket: Socket) => Promise<boolean>) {
  const stalled = deferred()
  const state = { finished: false }
  const more: ((raw: string) => void)[] = []
  app.get('/', (request, reply) => reply.sse(async function * ({ signal }) {
    const wake = () => more.pop()?.('')
    signal.addEventListener('abort', wake)
    try {
      while (!await enough(request.raw.socket)) {
        yield { raw: 'x'.repeat(size) }
        await turns(3)
      }
      stalled.resolve()
      while (!signal.aborted) yield { raw: await new Promise<string>((resolve) => more.push(resolve)) }
    } finally {
      state.finished = true
    }
  }))
  const port = await listen(app)
  const clock = ownClock(t)
  const client = connect(t, port).get('/')
  client.socket.pause()
  return { clock, client, state, stalled: stalled.promise, write: (raw: string) => more.pop()!(raw) }
}

const never = async () => false
/** Bytes are left unread in this process, though too few for the socket to ask for a pause. */
const unread = isStuck

t.test('a client that is behind is cut off after writeTimeout, whatever keepAlive is', async (t) => {
  for (const keepAlive of [false, 400, 5_000] as const) {
    await t.test(`keepAlive ${keepAlive}`, async (t) => {
      const app = await createApp(t, { keepAlive, writeTimeout: 1_000 })
      const { clock, client, state } = await stall(t, app, 65_536, never)
      await untilBehind(app.sse)
      await clock.tickAsync(999)
      await turns()
      t.equal(app.sse.stats().open, 1)
      t.equal(state.finished, false)
      await clock.tickAsync(1)
      await until(() => state.finished)
      t.match(app.sse.stats(), { open: 0, closed: { 'write-timeout': 1 } })
      client.socket.resume()
      await client.untilClosed()
      t.notMatch(client.received, ':\n\n')
    })
  }
})

t.test('a client that is behind and reads again in time is not cut off', async (t) => {
  const app = await createApp(t, { keepAlive: 5_000, writeTimeout: 1_000 })
  const { clock, client } = await stall(t, app, 65_536, never)
  for (let round = 0; round < 3; round++) {
    await untilBehind(app.sse)
    await clock.tickAsync(999)
    const { events } = onlyConnection(app)
    client.socket.resume()
    await until(() => onlyConnection(app).events > events + 10)
    client.socket.pause()
  }
  t.equal(app.sse.stats().open, 1)
  await untilBehind(app.sse)
  await clock.tickAsync(1_000)
  await until(() => app.sse.stats().closed['write-timeout'] === 1)
  t.equal(app.sse.stats().open, 0)
})

t.test('with writeTimeout: false a client may be behind for ever', async (t) => {
  const app = await createApp(t, { keepAlive: 100, writeTimeout: false })
  const { clock } = await stall(t, app, 65_536, never)
  await untilBehind(app.sse)
  await clock.tickAsync(1_000_000)
  await turns()
  t.equal(app.sse.stats().open, 1)
})

t.test('a client that leaves a small write unread is cut off after writeTimeout, too', async (t) => {
  for (const keepAlive of [false, 400, 1_000, 5_000] as const) {
    await t.test(`keepAlive ${keepAlive}`, async (t) => {
      const app = await createApp(t, { keepAlive, writeTimeout: 1_000 })
      const { clock, client, state, stalled } = await stall(t, app, 4_096, unread)
      await stalled
      t.equal(onlyConnection(app).behind, false, 'the socket has not asked for a pause')
      const { bytes } = onlyConnection(app)
      await clock.tickAsync(999)
      await turns()
      t.equal(app.sse.stats().open, 1)
      t.equal(app.sse.stats().bytes, bytes, 'no comment on top of what is unread')
      await clock.tickAsync(1)
      await turns()
      t.match(app.sse.stats(), { open: 0, closed: { 'write-timeout': 1 } })
      t.equal(state.finished, true)
      client.destroy()
    })
  }
})

t.test('a client that reads what it had left unread, late but in time, is not cut off', async (t) => {
  const app = await createApp(t, { keepAlive: 400, writeTimeout: 1_000 })
  const { clock, client, stalled } = await stall(t, app, 4_096, unread)
  await stalled
  await clock.tickAsync(600)
  client.socket.resume()
  await until(() => onlyConnection(app).request.raw.socket.writableLength === 0)
  await clock.tickAsync(400)
  await client.until(':\n\n')
  await clock.tickAsync(10_000)
  await turns()
  t.equal(app.sse.stats().open, 1)
})

t.test('small writes on top of what is unread do not put the cut off', async (t) => {
  for (const keepAlive of [false, 400] as const) {
    await t.test(`keepAlive ${keepAlive}`, async (t) => {
      const app = await createApp(t, { keepAlive, writeTimeout: 1_000 })
      const { clock, stalled, write } = await stall(t, app, 4_096, unread)
      await stalled
      for (let ms = 0; ms < 3_000 && app.sse.stats().open === 1; ms += 300) {
        await clock.tickAsync(300)
        await turns()
        if (app.sse.stats().open === 1) write('y')
        await turns()
      }
      t.equal(app.sse.stats().closed['write-timeout'], 1, 'bytes were left unread for three times writeTimeout')
    })
  }
})

for (const hours of [1, -1]) {
  const step = (clock: Clock) => clock.setSystemTime(Date.now() + hours * 3_600_000)

  t.test(`the wall clock steps by ${hours} h: a client that stalls meanwhile is cut off after writeTimeout`, async (t) => {
    for (const keepAlive of [false, 100, 400] as const) {
      await t.test(`keepAlive ${keepAlive}`, async (t) => {
        const app = await createApp(t, { keepAlive, writeTimeout: 1_000 })
        const { clock, stalled } = await stall(t, app, 4_096, unread)
        await stalled
        await clock.tickAsync(500)
        step(clock)
        await clock.tickAsync(499)
        await turns()
        t.equal(app.sse.stats().open, 1)
        await clock.tickAsync(1)
        await turns()
        t.match(app.sse.stats(), { open: 0, closed: { 'write-timeout': 1 } })
      })
    }
  })

  t.test(`the wall clock steps by ${hours} h: comments are sent every keepAlive`, async (t) => {
    const app = await createApp(t, { keepAlive: 6_400, writeTimeout: false })
    app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
    const port = await listen(app)
    const clock = ownClock(t)
    const client = connect(t, port).get('/')
    await client.until('data: 1\n\n')
    for (let sent = 1; sent <= 3; sent++) {
      await clock.tickAsync(3_000)
      step(clock)
      // A comment may be early by 1/64 where others are due, and there is nobody else.
      await clock.tickAsync(3_399)
      await turns()
      t.equal(client.body, 'data: 1\n\n' + ':\n\n'.repeat(sent - 1), 'not before')
      await clock.tickAsync(1)
      await client.until(new RegExp(`(:\\n\\n[^:]*){${sent}}$`))
    }
  })

  t.test(`the wall clock steps by ${hours} h: maxDuration and revalidateEvery come in their time`, async (t) => {
    const count = { asked: 0 }
    const app = await createApp(t)
    app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source, { maxDuration: 10_000 }))
    const revalidate = () => ++count.asked < 3
    app.get('/asked', (_, reply) => reply.sse(idleSource({ data: 1 }).source, { revalidate, revalidateEvery: 1_000 }))
    const port = await listen(app)
    const clock = ownClock(t)
    const [client, another] = ['/', '/asked'].map((path) => connect(t, port).get(path))
    await Promise.all([client!.until('data: 1\n\n'), another!.until('data: 1\n\n')])
    // The first question comes at any time within the first second.
    while (count.asked === 0) await clock.tickAsync(1)
    await clock.tickAsync(500)
    step(clock)
    await clock.tickAsync(499)
    t.equal(count.asked, 1)
    await clock.tickAsync(1)
    t.equal(count.asked, 2)
    step(clock)
    await clock.tickAsync(999)
    t.match(app.sse.stats(), { open: 2, closed: { revoked: 0 } })
    await clock.tickAsync(1)
    await until(() => app.sse.stats().closed.revoked === 1)
    await clock.tickAsync(10_000 - performance.now() - 1)
    step(clock)
    await turns()
    t.equal(app.sse.stats().open, 1)
    await clock.tickAsync(1)
    await until(() => app.sse.stats().closed['max-duration'] === 1)
  })
}

t.test('a response that has ended is not kept for a client that does not read its rest', async (t) => {
  const app = await createApp(t, { writeTimeout: 1_000 })
  const { clock, client, stalled } = await stall(t, app, 65_536, never)
  stalled.catch(() => {})
  await untilBehind(app.sse)
  const { socket } = onlyConnection(app).request.raw
  onlyConnection(app).end()
  await clock.tickAsync(999)
  await turns()
  t.equal(socket.destroyed, false)
  await clock.tickAsync(1)
  await until(() => socket.destroyed, () => 'its socket to be destroyed')
  t.match(app.sse.stats().closed, { ended: 1, 'write-timeout': 0, 'client-gone': 0 }, 'one reason, the first')
  client.destroy()
})

/** Opens a number of idle streams, one after the other. */
async function open (t: Test, app: FastifyInstance, port: number, count: number): Promise<RawClient[]> {
  const clients = []
  for (let n = 0; n < count; n++) {
    const client = connect(t, port).get('/')
    await client.until('\r\n\r\n')
    clients.push(client)
  }
  await until(() => app.sse.stats().opened === count)
  return clients
}

t.test('maxDuration: a stream is ended at its time, events or not', async (t) => {
  const app = await createApp(t, { maxDuration: 1_000, keepAlive: 300 })
  app.get('/', (_, reply) => reply.sse(idleSource({ data: 1 }).source))
  const port = await listen(app)
  const clock = ownClock(t)
  const [client] = await open(t, app, port, 1)
  await clock.tickAsync(999)
  await turns()
  t.equal(app.sse.stats().open, 1)
  await clock.tickAsync(1)
  await client!.until('0\r\n\r\n')
  t.equal(client!.body, 'data: 1\n\n:\n\n:\n\n:\n\n')
  t.match(app.sse.stats(), { open: 0, closed: { 'max-duration': 1 } })
})

t.test('maxDuration as a range: each connection draws its own, from min to max', async (t) => {
  const app = await createApp(t, { maxDuration: { min: 1_000, max: 2_000 } })
  app.get('/', (_, reply) => reply.sse(idleSource().source))
  const port = await listen(app)
  const clock = ownClock(t)
  const { random } = Math
  t.after(() => { Math.random = random })
  const draws = [0, 0.5, 1 - Number.EPSILON]
  Math.random = () => draws.shift() ?? random()
  await open(t, app, port, 3)
  for (const [ms, ended] of [[999, 0], [1, 1], [499, 1], [1, 2], [499, 2], [1, 3]] as const) {
    await clock.tickAsync(ms)
    t.equal(app.sse.stats().closed['max-duration'], ended)
  }
})

t.test('the timer of maxDuration goes with its stream', async (t) => {
  const app = await createApp(t, { maxDuration: 60_000, keepAlive: false, writeTimeout: false })
  app.get('/', (_, reply) => reply.sse(idleSource().source))
  const port = await listen(app)
  const clock = ownClock(t)
  const clients = await open(t, app, port, 10)
  t.equal(clock.countTimers(), 10)
  for (const client of clients) client.destroy()
  await until(() => app.sse.stats().open === 0)
  t.equal(clock.countTimers(), 0)
})

t.test('retry comes first, also before an event of the same turn', async (t) => {
  const app = await createApp(t, { retry: 0 })
  app.get('/', (_, reply) => reply.sse([{ data: 1 }]))
  app.get('/route', { sse: { retry: 20 } }, (_, reply) => reply.sse([{ data: 1 }]))
  app.get('/call', { sse: { retry: 20 } }, (_, reply) => reply.sse([{ retry: 40, data: 1 }], { retry: 30 }))
  const port = await listen(app)
  for (const [path, body] of [
    ['/', 'retry: 0\n\ndata: 1\n\n'],
    ['/route', 'retry: 20\n\ndata: 1\n\n'],
    ['/call', 'retry: 30\n\nretry: 40\ndata: 1\n\n']
  ] as const) {
    const client = connect(t, port).get(path)
    await client.until('0\r\n\r\n')
    t.equal(client.body, body)
  }
})

t.test('retry goes out with the head, though the source is idle', async (t) => {
  const app = await createApp(t, { retry: 500 })
  app.get('/', (_, reply) => reply.sse(idleSource().source))
  const client = connect(t, await listen(app)).get('/')
  await client.until('retry: 500\n\n')
  t.equal(client.body, 'retry: 500\n\n')
})

t.test('retry as a range: each connection draws its own, from min to max', async (t) => {
  const app = await createApp(t, { retry: { min: 1_000, max: 2_000 } })
  app.get('/', (_, reply) => reply.sse([]))
  const port = await listen(app)
  const { random } = Math
  t.after(() => { Math.random = random })
  const draws = [0, 0.5, 1 - Number.EPSILON]
  Math.random = () => draws.shift() ?? random()
  for (const ms of [1_000, 1_500, 2_000]) {
    const client = connect(t, port).get('/')
    await client.until('0\r\n\r\n')
    t.equal(client.body, `retry: ${ms}\n\n`)
  }
})

t.test('clients that stall one shortly after the other are each cut off after writeTimeout, however long that is', async (t) => {
  const clock = ownClock(t)
  const lines = new Lines()
  const lived: number[] = []
  const stalled = { isTaken: false, isLast: false, breakSilence () { t.fail('no comment goes on top of what is unread') } }
  for (let n = 0; n < 200; n++) {
    const since = performance.now()
    const owner = { onStalled () { lived.push(performance.now() - since) } }
    new Silence(stalled, owner, { keepAlive: 15_000, writeTimeout: 30_000 }, lines).begin(n % 2 === 0)
    clock.tick(75)
  }
  clock.tick(40_000)
  t.equal(lived.length, 200)
  t.ok(lived.every((ms) => ms >= 30_000 && ms <= 30_000 * 65 / 64), `${Math.min(...lived)} to ${Math.max(...lived)} ms`)
})

t.test('a blocked event loop is excused once, and not for ever', async (t) => {
  const clock = ownClock(t)
  const lines = new Lines()
  const lived: number[] = []
  const stalled = { isTaken: false, isLast: false, breakSilence () {} }
  const owner = { onStalled () { lived.push(performance.now() - start) } }
  const start = performance.now()
  new Silence(stalled, owner, { keepAlive: false, writeTimeout: 1_000 }, lines).begin(false)
  for (let n = 0; n < 10 && lived.length === 0; n++) {
    clock.jump(1_300)
    clock.tick(0)
  }
  t.same(lived, [2_600])
})

t.test('a comment is not put off until writeTimeout because something was unread when it was due', async (t) => {
  const clock = ownClock(t)
  const way = { isTaken: false, isLast: false, breakSilence () { comments.push(performance.now() - start) } }
  const comments: number[] = []
  const start = performance.now()
  new Silence(way, { onStalled () { t.fail('it has read') } }, { keepAlive: 300, writeTimeout: 5_000 }, new Lines()).begin(false)
  clock.tick(310)
  way.isTaken = true
  clock.tick(5_000)
  t.same(comments, [600])
})

t.test('a comment is never late for the tolerance of writeTimeout', async (t) => {
  for (const writeTimeout of [3_150, 3_200, 3_201]) {
    const clock = ownClock(t)
    const lines = new Lines()
    const comments: number[] = []
    for (let n = 0; n < 10; n++) {
      const since = performance.now()
      const way = { isTaken: true, isLast: false, breakSilence () { comments.push(performance.now() - since) } }
      new Silence(way, { onStalled () {} }, { keepAlive: 3_200, writeTimeout }, lines).begin(false)
      clock.tick(5)
    }
    clock.tick(4_000)
    t.equal(comments.length, 10)
    t.ok(comments.every((ms) => ms <= 3_200), `${writeTimeout}: ${comments}`)
    clock.uninstall()
  }
})
