/** The Redis broker on a cluster of three nodes, over which the shards are spread: the laws hold, and a node may die. */
import { Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { createHub, redisBroker, type RedisBroker } from '../index.ts'
import { shardOf } from '../lib/brokers/redis/keys.ts'
import { brokerLaws } from '../lib/testing/index.ts'
import { eventually } from '../lib/testing/law.ts'
import { readOn, until } from './helpers.ts'
import { adminOf, freePort, noRedis, Published, startRedis, Witness, type RedisServer } from './redis-server.ts'

t.setTimeout(120_000)

const NODES = 3
const SLOTS = 16_384
const SHARDS = 8
const TIMEOUT = 3_000

interface Node {
  server: RedisServer
  admin: Redis
}

/** A cluster whose nodes know each other and have a third of the slots each. */
async function startCluster (t: Test): Promise<Node[]> {
  const nodes: Node[] = []
  for (let index = 0; index < NODES; index++) {
    const server = await startRedis(t,
      '--cluster-enabled', 'yes', '--cluster-port', String(await freePort()), '--cluster-node-timeout', '1000',
      '--cluster-require-full-coverage', 'no', '--appendonly', 'yes', '--appendfsync', 'always')
    nodes.push({ server, admin: adminOf(t, server) })
  }
  for (const [index, { admin }] of nodes.entries()) {
    const from = Math.floor(SLOTS / NODES * index)
    const to = Math.floor(SLOTS / NODES * (index + 1)) - 1
    await admin.call('CLUSTER', 'ADDSLOTSRANGE', from, to)
    await admin.call('CLUSTER', 'SET-CONFIG-EPOCH', index + 1)
  }
  for (const { server, admin } of nodes.slice(1)) {
    const [, bus] = await admin.config('GET', 'cluster-port') as string[]
    await nodes[0]!.admin.call('CLUSTER', 'MEET', '127.0.0.1', server.port, bus!)
  }
  await eventually(async () => {
    const infos = await Promise.all(nodes.map(({ admin }) => admin.call('CLUSTER', 'INFO') as Promise<string>))
    return infos.every((info) => info.includes('cluster_state:ok') && info.includes(`cluster_known_nodes:${NODES}`))
  }, 'the nodes are a cluster')
  return nodes
}

function clusterBroker (t: Test, nodes: Node[], onError = (_: unknown) => {}): RedisBroker {
  const client = new Cluster(nodes.map(({ server }) => ({ host: '127.0.0.1', port: server.port })), { lazyConnect: true })
  const broker = redisBroker(client, { shards: SHARDS, timeout: TIMEOUT, onError })
  t.after(() => broker.end())
  return broker
}

t.test('on a cluster of three nodes the broker keeps every law', { skip: noRedis }, async (t) => {
  const nodes = await startCluster(t)
  const errors: unknown[] = []
  const [one, other] = [0, 1].map(() => clusterBroker(t, nodes, (error) => errors.push(error)))
  for (const { name, check } of brokerLaws) await t.resolves(check({ one: one!, other: other! }), name)
  t.same(errors.map(String), [], 'nothing is told to be wrong')
  for (const { server, admin } of nodes) t.ok(await admin.dbsize() > 0, `${server.port} has some of it`)
})

t.test('a node is killed in the middle of publishing, and comes back: everything once and in order, nothing is lost',
  { skip: noRedis }, async (t) => {
    const nodes = await startCluster(t)
    const names = Array.from({ length: 24 }, (_, index) => `channel ${index}`)
    const options = { history: { events: 1_000_000, bytes: 1_000_000_000, age: false }, onLag: 'gap' } as const
    const errors: unknown[] = []
    const publisher = createHub({ broker: clusterBroker(t, nodes, (error) => errors.push(error)) })
    const reader = createHub({ broker: clusterBroker(t, nodes) })
    t.after(() => reader.close())
    const all = names.map((name) => {
      const published = new Published(publisher.channel(name, options))
      const witness = new Witness()
      const channel = reader.channel(name, options)
      witness.read((after) => channel.subscribe({ after }))
      return { name, published, witness }
    })
    let over = false
    const publishing = Promise.all(all.map(({ published }) => published.until(() => over)))
    const stored = () => all.reduce((sum, { published }) => sum + published.ids.size, 0)
    for (const { server } of nodes.slice(0, 2)) {
      const before = stored()
      await until(() => stored() > before + 1_000)
      await server.kill()
      const rejected = () => all.reduce((sum, { published }) => sum + published.codes.size, 0)
      const rejectedBefore = rejected()
      await until(() => rejected() > rejectedBefore)
      t.ok(errors.splice(0).length > 0, 'it is told')
      await server.start()
      for (const { published } of all) {
        const { size } = published.ids
        await until(() => published.ids.size > size, () => 'each channel to be published to again')
      }
    }
    over = true
    await publishing
    const last = await Promise.all(all.map(({ published }) => published.last()))
    await until(() => all.every(({ witness }, index) => witness.has(last[index]!)), () => {
      const behind = all.filter(({ witness }, index) => !witness.has(last[index]!))
      return `all to be read: ${behind.map(({ name, witness, published }) => `${name}: ${witness.told.length} of ${published.ids.size}`)}`
    })
    for (const { name, published, witness } of all) {
      t.same(witness.faults(published), [], name)
      t.equal(witness.gaps, 0, `${name}: no gap`)
    }
  })

t.test('a node that hangs is none for its own shards, and the others notice nothing', { skip: noRedis }, async (t) => {
  const nodes = await startCluster(t)
  const errors: unknown[] = []
  const hub = createHub({ broker: clusterBroker(t, nodes, (error) => errors.push(error)) })
  t.after(() => hub.close())
  const [hanging] = nodes
  const all = await Promise.all(Array.from({ length: 24 }, async (_, index) => {
    const name = `channel ${index}`
    const published = new Published(hub.channel(name))
    await published.one()
    const slot = await hanging!.admin.call('CLUSTER', 'KEYSLOT', `sse:{${shardOf(name, SHARDS)}}:news`) as number
    return { published, hangs: slot < Math.floor(SLOTS / NODES) }
  }))
  const [those, others] = [true, false].map((which) => all.flatMap(({ published, hangs }) => hangs === which ? published : []))
  hanging!.server.stop()
  t.after(() => hanging!.server.goOn())
  const began = performance.now()
  const stuck = Promise.all(those!.map((published) => published.some(2)))
  let over = false
  const publishing = Promise.all(others!.map((published) => published.until(() => over)))
  await stuck
  const took = performance.now() - began
  t.ok(took < 1.5 * TIMEOUT, `settled after ${took} ms, also what waited for its turn`)
  // The second one had its turn at the last moment, or not any more.
  for (const { codes } of those!) t.match([...codes.values()], ['FST_SSE_OUTCOME_UNKNOWN', /^FST_SSE_(OUTCOME_UNKNOWN|BROKER_UNAVAILABLE)$/])
  // While the way to the node is opened anew, and cut, and opened again.
  await until(() => errors.length > 0 && others!.every(({ ids }) => ids.size > 1_000))
  over = true
  await publishing
  t.same(others!.flatMap(({ codes }) => [...codes]), [])
  t.equal(errors.length, 1, 'told once')
  hanging!.server.goOn()
  await Promise.all(those!.map((published) => published.last()))
})

t.test('what a node refuses is told as refused, and a spoiled channel holds up no other', { skip: noRedis }, async (t) => {
  const nodes = await startCluster(t)
  const hub = createHub({ broker: clusterBroker(t, nodes), onError () {} })
  t.after(() => hub.close())
  // Of one shard, and so of one node.
  const [good, bad] = Array.from({ length: 100 }, (_, index) => `channel ${index}`).filter((name) => shardOf(name, SHARDS) === 0)
  const published = new Published(hub.channel(good!))
  const witness = new Witness()
  witness.read((after) => hub.channel(good!).subscribe({ after }))
  const spoiled = readOn(hub.channel(bad!).subscribe())
  await published.some(3)
  await hub.channel(bad!).publish({ data: 1 })
  await until(() => witness.has(2) && spoiled.seen.length === 1)
  const keyslot = await nodes[0]!.admin.call('CLUSTER', 'KEYSLOT', 'sse:{0}:news') as number
  const { admin } = nodes[Math.floor(keyslot / (SLOTS / NODES))]!

  await admin.config('SET', 'maxmemory', '1')
  await t.rejects(hub.channel(good!).publish({ data: 1 }), { code: 'FST_SSE_BROKER_UNAVAILABLE', message: /: Redis says: OOM / })
  await admin.config('SET', 'maxmemory', '0')

  await admin.set(`sse:{0}:state:${bad}`, 'nonsense')
  await t.rejects(hub.channel(bad!).publish({ data: 1 }), { code: 'FST_SSE_BROKER_UNAVAILABLE', message: /: Redis says: WRONGTYPE / })
  await admin.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
  const last = await published.last()
  await until(() => witness.has(last))
  await until(() => spoiled.result.error !== undefined)
})
