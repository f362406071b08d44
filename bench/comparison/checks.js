/** What is asked of each library, by a client that is a socket, and a source that notes what is done to it. */
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import { setImmediate, setTimeout } from 'node:timers/promises'

/** Milliseconds for what should be done at once. */
const SOON = 1_500

/** Never yields, and notes when it is asked, and when it is let go of. */
class IdleSource {
  asked = withResolvers()
  released = withResolvers();

  [Symbol.asyncIterator] () {
    return this
  }

  next () {
    this.asked.resolve()
    return new Promise(() => {})
  }

  async return () {
    this.released.resolve()
    return { done: true, value: undefined }
  }
}

function withResolvers () {
  const deferred = {}
  deferred.promise = new Promise((resolve) => { deferred.resolve = resolve })
  return deferred
}

async function happensSoon (promise) {
  return await Promise.race([promise.then(() => true), setTimeout(SOON, false)])
}

function get (url, options = {}) {
  const request = http.get(url, { agent: false, ...options, headers: { accept: 'text/event-stream', ...options.headers } })
  request.on('error', () => {})
  return request
}

/** The status and the text of an answer that ends, or of which no more is waited for. */
async function read (request) {
  const response = await Promise.race([once(request, 'response').then(([response]) => response), setTimeout(SOON)])
    .catch(() => undefined)
  if (response === undefined) return { status: undefined, text: '' }
  let text = ''
  response.on('error', () => {}).setEncoding('utf8').on('data', (chunk) => { text += chunk })
  await Promise.race([once(response, 'close').catch(() => {}), setTimeout(SOON)])
  request.destroy()
  return { status: response.statusCode, text }
}

async function sendsHeadAtOnce (serve) {
  const server = await serve({ source: () => new IdleSource() })
  const request = get(server.url)
  const answer = await happensSoon(once(request, 'response'))
  request.destroy()
  await finish(server)
  return answer
}

async function stopsIdleSource (serve) {
  const source = new IdleSource()
  const server = await serve({ source: () => source })
  const request = get(server.url)
  await source.asked.promise
  request.destroy()
  const answer = await happensSoon(source.released.promise)
  await finish(server)
  return answer
}

const BIG = 'x'.repeat(65_536)
/** 64 MB are more than the kernel takes from a server whose client does not read. */
const MANY = 1_000

async function waitsForReaders (serve) {
  let yielded = 0
  async function * source () {
    while (yielded < MANY) {
      yielded++
      yield { event: 'big', data: BIG }
      await setImmediate()
    }
  }
  const server = await serve({ source })
  const socket = net.connect(new URL(server.url).port, '127.0.0.1', () => {
    socket.pause().write('GET / HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n')
  }).on('error', () => {})
  let before
  do {
    before = yielded
    await setTimeout(SOON)
  } while (yielded > before)
  socket.destroy()
  await finish(server)
  return yielded < MANY
}

async function answersEarlyErrors (serve) {
  async function * source () {
    throw Object.assign(new Error('not now'), { statusCode: 503 })
  }
  const server = await serve({ source })
  const { status } = await read(get(server.url))
  await finish(server)
  return status === 503
}

/** The last event ID comes back to us as the data of an event. */
async function tellsLastEventId (serve, path, headers) {
  async function * source (lastEventId) {
    yield { event: 'id', data: `got ${lastEventId}` }
  }
  const server = await serve({ source })
  const { text } = await read(get(`${server.url}${path}`, { headers }))
  await finish(server)
  return text.includes('got 42')
}

async function runsOnSend (serve) {
  async function * source () {
    yield { event: 'one', data: '1' }
  }
  const server = await serve({ source })
  if (server.hooks === undefined) return finish(server)
  await read(get(server.url))
  await finish(server)
  return server.hooks.onSend === 1
}

async function runsOnResponse (serve) {
  const source = new IdleSource()
  const server = await serve({ source: () => source })
  if (server.hooks === undefined) return finish(server)
  const request = get(server.url)
  await source.asked.promise
  const early = server.hooks.onResponse
  request.destroy()
  await setTimeout(SOON)
  await finish(server)
  return early === 0 && server.hooks.onResponse === 1
}

async function closesWithOpenStreams (serve) {
  async function * source () {
    yield { event: 'one', data: '1' }
    await new Promise(() => {})
  }
  const server = await serve({ source })
  if (server.hooks === undefined) return finish(server)
  const request = get(server.url)
  const [response] = await once(request, 'response')
  response.on('error', () => {}).resume()
  const answer = await happensSoon(server.close())
  request.destroy()
  return answer
}

async function startsNothingForHead (serve) {
  let started = false
  async function * source () {
    started = true
    yield { event: 'one', data: '1' }
  }
  const server = await serve({ source })
  await read(get(server.url, { method: 'HEAD' }))
  await finish(server)
  return !started
}

/** Some do not end while a stream is open. */
async function finish (server) {
  await Promise.race([server.close(), setTimeout(SOON)])
}

export const CHECKS = {
  'The head goes out before the first event': sendsHeadAtOnce,
  'A source that waits is let go of when its client leaves': stopsIdleSource,
  'A source waits for a client that does not read': waitsForReaders,
  'A source that fails at once is answered with its status': answersEarlyErrors,
  'The last event ID of the header is told': (serve) => tellsLastEventId(serve, '/', { 'last-event-id': '42' }),
  'One in the query `?lastEventId=`, too': (serve) => tellsLastEventId(serve, '/?lastEventId=42'),
  'A HEAD request starts no source': startsNothingForHead,
  'onSend hooks of Fastify run': runsOnSend,
  'onResponse hooks run when a client has left, not before': runsOnResponse,
  '`app.close()` ends open streams': closesWithOpenStreams
}
